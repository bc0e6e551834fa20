"""A ledger that is older, shorter, edited or gone gives itself away, and comes back only with its charges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.dp.events import Composed, NonPrivate
from fedvlm_secure.errors import StorageError
from node import ledger_file
from node.ledger import Ledger
from node.ledger_chain import read_chain
from node.ledger_entries import GENESIS, Floor, PopulationAdded, parse_entry
from node.ledger_restore import Witness, restore
from tests.ledger.purse import DELTA, PLAN, ROUND, Purse, run_id, times


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return Purse(tmp_path)


def code_of(purse: Purse) -> str:
    with pytest.raises(StorageError) as caught:
        purse.open()
    return caught.value.code


def spend(ledger: Ledger, *rounds: int) -> None:
    for number in rounds:
        ledger.spend(run_id(1), number, ROUND)


def started(purse: Purse) -> Ledger:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    spend(ledger, 1)
    return ledger


def test_yesterdays_copy_is_recognised(purse: Purse) -> None:
    ledger = started(purse)
    copy = purse.keep_copy("yesterday")
    spend(ledger, 2)
    purse.bring_back(copy)
    assert code_of(purse) == "LEDGER_ROLLED_BACK"


def test_copy_brought_back_under_a_running_service_covers_nothing(purse: Purse) -> None:
    ledger = started(purse)
    copy = purse.keep_copy("yesterday")
    spend(ledger, 2)
    purse.bring_back(copy)
    with pytest.raises(StorageError) as caught:
        spend(ledger, 3)
    assert caught.value.code == "LEDGER_ROLLED_BACK"
    with pytest.raises(StorageError):
        ledger.covers(run_id(1), ROUND)


@pytest.mark.parametrize("while_running", [True, False])
def test_deleted_ledger_is_missing_not_new(purse: Purse, while_running: bool) -> None:
    ledger = started(purse)
    purse.paths.ledger.unlink()
    if while_running:
        with pytest.raises(StorageError) as caught:
            spend(ledger, 2)
        assert caught.value.code == "LEDGER_MISSING"
    assert code_of(purse) == "LEDGER_MISSING"
    with pytest.raises(StorageError) as caught:
        purse.create()
    assert caught.value.code == "LEDGER_EXISTS"


def test_deleting_ledger_and_anchor_still_leaves_the_key_as_a_witness(purse: Purse) -> None:
    started(purse)
    purse.paths.ledger.unlink()
    purse.paths.anchor.unlink()
    assert code_of(purse) == "LEDGER_MISSING"
    with pytest.raises(StorageError) as caught:
        purse.create()
    assert caught.value.code == "LEDGER_EXISTS"


def test_hospital_without_a_ledger_is_told_to_open_one(purse: Purse) -> None:
    with pytest.raises(StorageError) as caught:
        purse.open()
    assert caught.value.code == "LEDGER_MISSING"
    assert "ledger open" in caught.value.hint


@pytest.mark.parametrize("sequence", [1, 2, 3, 4])
def test_a_well_formed_edit_of_any_entry_is_found(purse: Purse, sequence: int) -> None:
    started(purse)
    entry = next(entry for entry, _ in read_chain(purse.paths.ledger, 0, GENESIS) if entry.sequence == sequence)
    forged = replace(entry, at_s=entry.at_s + 1).to_bytes()
    purse.edit("UPDATE entry SET content = ? WHERE sequence = ?", forged, sequence)
    assert code_of(purse) == "LEDGER_TAMPERED"


def test_a_raised_limit_is_found(purse: Purse) -> None:
    started(purse)
    entry = next(entry for entry, _ in read_chain(purse.paths.ledger, 0, GENESIS) if entry.sequence == 2)
    assert entry.body == PopulationAdded("chest", DELTA, 8.0)
    forged = replace(entry, body=PopulationAdded("chest", DELTA, 80.0)).to_bytes()
    purse.edit("UPDATE entry SET content = ? WHERE sequence = 2", forged)
    assert code_of(purse) == "LEDGER_TAMPERED"


def test_bytes_that_are_no_entry_are_found(purse: Purse) -> None:
    started(purse)
    purse.edit("UPDATE entry SET content = substr(content, 2) WHERE sequence = 3")
    assert code_of(purse) == "LEDGER_TAMPERED"


@pytest.mark.parametrize("sequence", [1, 3])
def test_an_entry_taken_out_is_found(purse: Purse, sequence: int) -> None:
    started(purse)
    purse.edit("DELETE FROM entry WHERE sequence = ?", sequence)
    assert code_of(purse) == "LEDGER_TAMPERED"


def test_the_last_entry_taken_out_is_a_rollback(purse: Purse) -> None:
    started(purse)
    purse.edit("DELETE FROM entry WHERE sequence = 4")
    assert code_of(purse) == "LEDGER_ROLLED_BACK"


def test_entries_cannot_be_changed_by_accident(purse: Purse) -> None:
    import sqlite3

    started(purse)
    connection = sqlite3.connect(purse.paths.ledger)
    for sql in ("UPDATE entry SET content = x''", "DELETE FROM entry"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            connection.execute(sql)
    connection.close()


def test_two_copies_that_went_on_by_themselves_are_a_fork(purse: Purse) -> None:
    ledger = started(purse)
    copy, anchor = purse.keep_copy("other"), purse.paths.anchor.read_bytes()
    spend(ledger, 2)
    first = purse.paths.anchor.read_bytes()
    purse.bring_back(copy)
    purse.paths.anchor.write_bytes(anchor)
    purse.now_s += 60
    spend(purse.open(), 2)  # a second machine, unaware
    purse.paths.anchor.write_bytes(first)
    assert code_of(purse) == "LEDGER_TAMPERED"


def test_rewritten_chain_does_not_meet_the_anchor(purse: Purse, tmp_path: Path) -> None:
    started(purse)
    anchor = purse.paths.anchor.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    other = Purse(tmp_path / "elsewhere")
    ledger = other.create(limit=1000.0)
    ledger.reserve(run_id(1), "chest", PLAN)
    spend(ledger, 1)
    purse.bring_back(other.paths.ledger)
    assert code_of(purse) == "LEDGER_TAMPERED"
    assert purse.paths.anchor.read_bytes() == anchor


@pytest.mark.parametrize("fault", ["gone", "edited", "foreign key", "not json"])
def test_anchor_that_is_not_ours_is_refused(purse: Purse, fault: str) -> None:
    started(purse)
    fields = json.loads(purse.paths.anchor.read_bytes())
    match fault:
        case "gone":
            purse.paths.anchor.unlink()
        case "edited":
            fields["floors"] = []
            purse.paths.anchor.write_text(json.dumps(fields))
        case "foreign key":
            fields["mac"] = bytes(32).hex()
            purse.paths.anchor.write_text(json.dumps(fields))
        case _:
            purse.paths.anchor.write_bytes(b"\xff{")
    assert code_of(purse) == "LEDGER_TAMPERED"


@pytest.mark.parametrize("content", [b"", b"no database" * 500])
def test_a_file_that_is_no_ledger_is_refused(purse: Purse, content: bytes) -> None:
    started(purse)
    purse.paths.ledger.write_bytes(content)
    assert code_of(purse) == "LEDGER_TAMPERED"


def test_crash_between_entry_and_anchor_keeps_the_charge(purse: Purse, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = started(purse)

    def power_cut(*_: object) -> None:
        raise StorageError("STORAGE_IO", "cut", "")

    monkeypatch.setattr(ledger_file, "write_anchor", power_cut)
    with pytest.raises(StorageError, match="cut"):
        spend(ledger, 2)
    monkeypatch.undo()
    again = purse.open()
    assert again.balance("chest").event == times(4)
    assert again.spend(run_id(1), 2, ROUND) is False
    assert json.loads(purse.paths.anchor.read_bytes())["sequence"] == 5


def test_restore_from_a_copy_keeps_what_the_anchor_saw(purse: Purse) -> None:
    ledger = started(purse)
    copy = purse.keep_copy("yesterday")
    spend(ledger, 2, 3)
    before = ledger.head
    purse.bring_back(copy)
    head = restore(purse.paths, [], purse.entropy, purse.wall_s)
    assert head.sequence == before.sequence + 1
    again = purse.open()
    assert again.balance("chest").event == times(6)
    assert not again.covers(run_id(1), ROUND)  # the old run is over
    again.reserve(run_id(2), "chest", ROUND)
    assert again.spend(run_id(2), 1, ROUND)
    assert purse.open().balance("chest").event == times(8)


def test_restore_without_anchor_takes_the_peers_word_and_open_reservations(purse: Purse) -> None:
    ledger = started(purse)
    copy = purse.keep_copy("yesterday")
    spend(ledger, 2, 3)
    seen = Witness(LedgerHead(60, ledger.head.digest), (Floor("chest", DELTA, 8.0, times(40), False),))
    purse.bring_back(copy)
    purse.paths.anchor.unlink()
    head = restore(purse.paths, [seen], purse.entropy, purse.wall_s)
    assert head.sequence == 61
    assert purse.open().balance("chest").event == times(40)


def test_restore_without_anchor_charges_rounds_nobody_has_seen(purse: Purse) -> None:
    ledger = started(purse)
    copy, at_copy = purse.keep_copy("yesterday"), ledger.head
    spend(ledger, 2, 3)
    purse.bring_back(copy)
    purse.paths.anchor.unlink()
    restore(purse.paths, [Witness(at_copy, ())], purse.entropy, purse.wall_s)
    assert purse.open().balance("chest").event == PLAN


def test_restore_after_total_loss_needs_the_peers_and_the_key(purse: Purse) -> None:
    started(purse)
    purse.paths.ledger.unlink()
    purse.paths.anchor.unlink()
    with pytest.raises(StorageError) as caught:
        restore(purse.paths, [], purse.entropy, purse.wall_s)
    assert caught.value.code == "RESTORE_UNPROVEN"
    event = Composed((ROUND, NonPrivate()))
    seen = Witness(LedgerHead(4, run_id(4)), (Floor("chest", DELTA, 8.0, event, False),))
    assert restore(purse.paths, [seen], purse.entropy, purse.wall_s).sequence == 5
    balance = purse.open().balance("chest")
    assert (balance.event, balance.unprotected, balance.limit) == (ROUND, True, 8.0)
    purse.paths.key.unlink()
    with pytest.raises(StorageError) as caught:
        restore(purse.paths, [seen], purse.entropy, purse.wall_s)
    assert caught.value.code == "LEDGER_MISSING"


def test_charges_of_both_sides_of_a_fork_are_added(purse: Purse) -> None:
    ledger = started(purse)
    spend(ledger, 2)
    other = Witness(LedgerHead(4, run_id(99)), (Floor("chest", DELTA, 8.0, times(7), False),))
    restore(purse.paths, [other], purse.entropy, purse.wall_s)
    assert purse.open().balance("chest").event == times(4 + 7)


def test_peers_word_about_a_merged_population_charges_its_heir(purse: Purse) -> None:
    ledger = started(purse)
    ledger.add_population("all", delta=DELTA, epsilon_limit=8.0)
    ledger.merge("chest", "all")
    seen = Witness(LedgerHead(60, run_id(4)), (Floor("chest", DELTA, 8.0, times(9), True),))
    restore(purse.paths, [seen], purse.entropy, purse.wall_s)
    balance = purse.open().balance("all")
    assert (balance.event, balance.unprotected) == (times(9), True)


def test_broken_copy_is_not_restored_from(purse: Purse) -> None:
    started(purse)
    purse.edit("DELETE FROM entry WHERE sequence = 2")
    with pytest.raises(StorageError) as caught:
        restore(purse.paths, [], purse.entropy, purse.wall_s)
    assert caught.value.code == "LEDGER_TAMPERED"


@pytest.mark.parametrize("raw", [b"", b"n", b"\x00" * 40])
def test_what_is_no_entry_is_not_read_as_one(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_entry(raw)
