"""The report shows the last empirical audit that lies in the run's folder, and says what it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedvlm_secure.audit.audit_report import write_audit_report
from fedvlm_secure.audit.empirical import FILE_NAME, CanariesShown, EmpiricalAudit, WhiteBoxShown
from fedvlm_secure.audit.folder import open_run
from fedvlm_secure.errors import StorageError
from tests.audit.chains import digest, write_run


def empirical(*, shown_mu: float = 0.46, policy: str = "policy", code: str = "code") -> EmpiricalAudit:
    return EmpiricalAudit(
        made_at="2027-01-20T09:00:00Z",
        policy_name="trial <b>",
        policy_hash=digest(policy),
        mechanism="dp_sgd",
        version="0",
        code=digest(code),
        dimension=500,
        noise_multiplier=2.0,
        white_box=WhiteBoxShown(
            claimed_mu=0.5,
            shown_mu=shown_mu,
            largest_mu=6.8,
            confidence=0.99,
            trials=10_000,
            judged=9_000,
            right=5_334,
        ),
        canaries=CanariesShown(
            claimed_epsilon=1.0,
            shown_epsilon=0.1,
            largest_epsilon=3.07,
            delta=1e-5,
            confidence=0.99,
            canaries=100,
            guesses=66,
            right=36,
        ),
    )


def report(folder: Path, found: EmpiricalAudit | None) -> tuple[str, dict[str, object]]:
    write_run(folder, rounds=1)
    if found is not None:
        (folder / FILE_NAME).write_bytes(found.to_bytes())
    json_path, _, page = write_audit_report(open_run(folder, None), folder)
    return page.read_text(), json.loads(json_path.read_text())


def test_without_an_audit_the_signed_record_says_that_none_was_made(tmp_path: Path) -> None:
    page, fields = report(tmp_path, None)
    assert "<td>none</td>" in page
    assert fields["empirical_audit"] is None


def test_claim_and_what_was_shown_stand_on_the_page(tmp_path: Path) -> None:
    page, fields = report(tmp_path, empirical())
    assert "mu 0.500 is claimed, at least 0.460 is shown" in page
    assert "epsilon 1.00 is claimed at delta 1e-05, at least 0.10 is shown" in page
    assert "not refuted" in page and "never certify" in page and "not signed" in page
    assert "REFUTES" not in page and "ANOTHER" not in page and "other sources" not in page
    assert fields["empirical_audit"] == empirical().model_dump(mode="json")


def test_a_refuted_claim_stands_on_the_first_screen(tmp_path: Path) -> None:
    page, _ = report(tmp_path, empirical(shown_mu=0.93))
    assert page.index("REFUTES") < page.index("</header>")


def test_an_audit_of_another_policy_or_of_other_sources_is_told_as_such(tmp_path: Path) -> None:
    page, _ = report(tmp_path, empirical(policy="another", code="changed"))
    assert "ANOTHER policy" in page and "other sources" in page


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, empirical().to_bytes().replace(b"0.46", b"-1.0")])
def test_a_file_that_is_no_audit_is_refused_with_one_code_but_the_records_still_verify(
    tmp_path: Path, content: bytes
) -> None:
    write_run(tmp_path, rounds=1)
    (tmp_path / FILE_NAME).write_bytes(content)
    audited = open_run(tmp_path, None)
    assert audited.findings == ()
    with pytest.raises(StorageError) as caught:
        write_audit_report(audited, tmp_path)
    assert caught.value.code == "EMPIRICAL_UNREADABLE"
