"""Signed records name the ledger's head: who sets ledger and anchor back together is noticed all the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedvlm_secure.audit.chain import read_chain
from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.audit.record import AuditRecord, LedgerEntry, Round
from fedvlm_secure.audit.verify import verify_chain
from fedvlm_secure.errors import StorageError
from fedvlm_secure.types import Digest
from node.ledger_heads import require_signed_heads
from node.purse import open_purse
from tests.audit import chains
from tests.ledger.recorded import ME, Recorded
from tests.ledger.test_ledger_restored import call, restored


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded.make(tmp_path, monkeypatch)


def set_back(hospital: Recorded) -> None:
    """Ledger and anchor are yesterday's, as from one backup; then two more rounds are released and forgotten."""
    hospital.start(1)
    hospital.round(1, 1)
    copy, anchor = hospital.purse.keep_copy("yesterday"), hospital.purse.paths.anchor.read_bytes()
    hospital.round(1, 2)
    hospital.round(1, 3)
    hospital.end(1)
    hospital.purse.bring_back(copy)
    hospital.purse.paths.anchor.write_bytes(anchor)


def serve(hospital: Recorded) -> None:
    """What the service does at its start."""
    purse = hospital.purse
    open_purse(purse.state, None, "chest", ["p"], private=True, entropy=purse.entropy, wall_s=purse.wall_s)


def code_at_start(hospital: Recorded) -> str:
    with pytest.raises(StorageError) as caught:
        serve(hospital)
    return caught.value.code


def test_ledger_and_anchor_set_back_together_do_not_train(hospital: Recorded) -> None:
    set_back(hospital)
    assert code_at_start(hospital) == "LEDGER_ROLLED_BACK"


def test_a_ledger_that_stands_starts(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    serve(hospital)
    hospital.round(1, 2)
    serve(hospital)
    assert require_signed_heads(hospital.ledger, (hospital.purse.state / "runs",)) == 1


def test_a_ledger_begun_anew_over_old_records_does_not_train(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    paths = hospital.purse.paths
    for path in (paths.ledger, paths.anchor, paths.key):
        path.unlink()
    hospital.purse.create()
    assert code_at_start(hospital) == "LEDGER_ROLLED_BACK"


@pytest.mark.parametrize("gone", ["set back", "ledger", "ledger and anchor"])
def test_after_a_restore_the_service_starts_and_the_next_loss_is_noticed_again(hospital: Recorded, gone: str) -> None:
    set_back(hospital)
    if gone != "set back":
        hospital.lose(anchor=gone == "ledger and anchor")
    assert restored(hospital) == 3
    serve(hospital)
    hospital.start(2)
    copy, anchor = hospital.purse.keep_copy("restored"), hospital.purse.paths.anchor.read_bytes()
    hospital.round(2, 1)
    hospital.purse.bring_back(copy)
    hospital.purse.paths.anchor.write_bytes(anchor)
    assert code_at_start(hospital) == "LEDGER_ROLLED_BACK"


def kept_by_a_peer(hospital: Recorded) -> None:
    """A whole machine comes back from a backup; another party has a copy of this hospital's records."""
    kept = hospital.folder / "kept-for-coast"
    shutil.copytree(hospital.purse.state / "runs", kept)
    shutil.rmtree(hospital.purse.state / "runs")


def test_copy_that_a_peer_kept_shows_a_whole_machine_set_back(hospital: Recorded) -> None:
    set_back(hospital)
    kept_by_a_peer(hospital)
    serve(hospital)  # nothing on this machine shows it
    code, _, errors = call(hospital.purse, "check", str(hospital.folder))
    assert code != 0 and "LEDGER_ROLLED_BACK" in errors and "does not hold entry" in errors
    assert restored(hospital) == 3
    code, text, errors = call(hospital.purse, "check", str(hospital.folder))
    assert code == 0 and "1 signed record files" in text, errors


def test_record_that_another_identity_signed_proves_nothing_about_this_ledger(
    hospital: Recorded, tmp_path: Path
) -> None:
    set_back(hospital)
    forged = chains.resign(list(read_chain(hospital.path(ME, 1))), chains.KEYS["valley"])
    shutil.rmtree(hospital.folder)
    shutil.rmtree(hospital.purse.state / "runs")
    hospital.folder.mkdir()
    (hospital.folder / "audit.jsonl").write_bytes(b"".join(record.to_line() for record in forged))
    code, text, errors = call(hospital.purse, "check", str(hospital.folder))
    assert code == 0 and "0 signed record files" in text, errors


def test_forked_ledger_lacks_the_other_sides_head(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    head = hospital.ledger.head
    assert hospital.ledger.holds(head)
    assert not hospital.ledger.holds(LedgerHead(head.sequence, Digest(bytes(32))))
    assert not hospital.ledger.holds(LedgerHead(head.sequence + 1, head.digest))


def with_head(record: AuditRecord, head: LedgerEntry | None) -> AuditRecord:
    """The record of a round as its party would write it anew."""
    body = record.body
    assert isinstance(body, Round) and body.spending is not None and body.spending.purse is not None
    purse = body.spending.purse.model_copy(update={"head": head})
    spending = body.spending.model_copy(update={"purse": purse})
    return record.model_copy(update={"body": body.model_copy(update={"spending": spending})})


def test_auditor_finds_heads_that_go_back_fork_or_vanish(hospital: Recorded) -> None:
    hospital.start(1)
    for number in (1, 2, 3):
        hospital.round(1, number)
    hospital.end(1)
    records, roster = list(read_chain(hospital.path(ME, 1))), chains.roster()
    assert verify_chain(records, roster) == []
    second = records[2].body
    assert isinstance(second, Round) and second.spending is not None and second.spending.purse is not None
    head = second.spending.purse.head
    assert head is not None
    lies = (head.model_copy(update={"sequence": 1}), head.model_copy(update={"digest": "00" * 32}), None)
    for lie in lies:
        lied = chains.resign([*records[:3], with_head(records[3], lie), *records[4:]], chains.KEYS[ME])
        assert {(one.index, one.field) for one in verify_chain(lied, roster)} == {(3, "purse.head")}
