"""An audit file survives crashes and bad clocks, and belongs to one party and run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedvlm_secure.audit.chain import AuditChain, read_chain
from fedvlm_secure.audit.folder import open_run
from fedvlm_secure.audit.record import AuditRecord
from fedvlm_secure.dp.events import Gaussian, PoissonSampled, SelfComposed
from fedvlm_secure.errors import StorageError
from tests.audit.chains import KEYS, NODES, closed_round, digest, start, write_party, write_run


def chain(path: Path, wall_s: float = 1_800_000_000, *, party: str = "coast") -> AuditChain:
    return AuditChain(
        path,
        role="node",
        party=party,
        run="ab" * 16,
        run_hash=digest("run"),
        key=KEYS[party],
        wall_s=lambda: wall_s,
    )


def test_a_record_that_a_crash_cut_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    before = chain(path)
    before.append(start("coast", rounds=2, private=False))
    whole = path.read_bytes()
    before.append(closed_round(before, 1, node=True))
    path.write_bytes(path.read_bytes()[:-30])
    again = chain(path)
    assert len(again.records) == 1
    again.append(closed_round(again, 1, node=True))
    assert path.read_bytes().startswith(whole)
    assert [record.index for record in read_chain(path)] == [0, 1]
    assert path.stat().st_mode & 0o777 == 0o600


def test_times_never_go_back_when_the_clock_does(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    chain(path, 1_800_000_000).append(start("coast", rounds=2, private=False))
    later = chain(path, 1_000_000_000)
    later.append(closed_round(later, 1, node=True))
    times = [record.time for record in read_chain(path)]
    assert times == ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z"]


def test_a_file_of_another_party_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    chain(path).append(start("coast", rounds=2, private=False))
    with pytest.raises(StorageError) as caught:
        chain(path, party="valley")
    assert caught.value.code == "AUDIT_FOREIGN"


def test_one_record_has_one_form(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    chain(path).append(start("coast", rounds=2, private=True))
    path.write_bytes(json.dumps(json.loads(path.read_bytes())).encode() + b"\n")
    with pytest.raises(StorageError, match="record 0, field record") as caught:
        read_chain(path)
    assert caught.value.code == "AUDIT_MALFORMED"


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"\xff\n", b"[" * 5000 + b"\n", b"null\n"])
def test_what_is_no_record_is_one_clear_error(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(line)
    with pytest.raises(StorageError, match="record 0") as caught:
        read_chain(path)
    assert caught.value.code == "AUDIT_MALFORMED"


def test_without_a_mechanism_no_epsilon_stands_anywhere(tmp_path: Path) -> None:
    records = write_party(tmp_path / "coast", "coast", rounds=2, private=False).records

    def numbers(value: object, name: str = "") -> list[str]:
        if isinstance(value, dict):
            return [found for key, item in value.items() for found in numbers(item, key)]
        return [name] if "epsilon" in name and value is not None else []

    assert [found for record in records for found in numbers(record.model_dump())] == []
    assert "no formal protection of the released model" in (tmp_path / "coast" / "audit.jsonl").read_text()


def test_numbers_on_record_are_those_of_the_accounting_library(tmp_path: Path) -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld  # type: ignore[import-untyped]

    chained = write_party(tmp_path / "coast", "coast", rounds=3, private=True)
    terms = chained.start.privacy if chained.start is not None else None
    assert terms is not None
    multiplier = terms.round_event["event"]["event"]["event"]["noise_multiplier"]
    direct = pld.from_gaussian_mechanism(multiplier, value_discretization_interval=1e-3, sampling_prob=0.05)
    spent = [one.spending.epsilon_run for one in chained.rounds if one.spending is not None]
    for rounds, epsilon in enumerate(spent, start=1):
        assert epsilon == pytest.approx(direct.self_compose(2 * rounds).get_epsilon_for_delta(1e-5), rel=1e-6)


def test_an_auditor_loads_no_protocol_model_or_network(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rounds=1)
    code = (
        "import sys\nfrom fedvlm_secure.cli.main import app\n"
        "try:\n    app(['audit', 'verify', sys.argv[1]], standalone_mode=False)\nfinally:\n"
        "    heavy = ['torch', 'grpc', 'transformers']\n"
        "    heavy += [f'fedvlm_secure.{room}' for room in ('secagg', 'vlm', 'wire', 'rounds')]\n"
        "    print(sorted(name for name in heavy if name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "all records hold" in done.stdout


def test_two_runs_or_two_rosters_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rounds=1, private=False)
    (folder / "coast" / "roster.toml").write_text("version = 1\n")
    with pytest.raises(StorageError) as caught:
        open_run(folder, None)
    assert caught.value.code == "AUDIT_ROSTER"
    assert open_run(folder, folder / "roster.toml").findings == ()
    (folder / "again").mkdir()
    (folder / "again" / "audit.jsonl").write_bytes((folder / "coast" / "audit.jsonl").read_bytes())
    with pytest.raises(StorageError) as caught:
        open_run(folder, folder / "roster.toml")
    assert caught.value.code == "AUDIT_TWICE"


def test_an_absent_party_is_named_and_is_no_fault(tmp_path: Path) -> None:
    folder = write_run(tmp_path, rounds=1, private=False)
    (folder / "valley" / "audit.jsonl").unlink()
    audited = open_run(folder, None)
    assert audited.absent == ("valley",)
    assert audited.findings == ()


def test_a_record_that_would_exhaust_the_auditor_is_not_computed(tmp_path: Path) -> None:
    from fedvlm_secure.dp.accounting import computable

    assert computable(SelfComposed(PoissonSampled(0.2, Gaussian(1.15)), 10_000))
    assert not computable(SelfComposed(Gaussian(1e-6), 10))
    assert not computable(SelfComposed(Gaussian(1.0), 1 << 40))


def test_hospitals_are_told_apart_by_their_own_key(tmp_path: Path) -> None:
    signatures: set[str] = set()
    for party in NODES:
        records: tuple[AuditRecord, ...] = write_party(tmp_path / party, party, rounds=1, private=False).records
        signatures.update(record.signature for record in records)
    assert len(signatures) == 9
