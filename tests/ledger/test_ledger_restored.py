"""A lost ledger comes back from signed records: at least what they show, and never on somebody's bare word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from fedvlm_secure import console
from fedvlm_secure.audit.chain import read_chain
from fedvlm_secure.audit.record import Round, survivors_hash
from fedvlm_secure.dp.events import SelfComposed
from fedvlm_secure.policy.roster import format_roster
from node.ledger_book import tally
from node.ledger_commands import ledger_app
from tests.audit import chains
from tests.ledger.purse import Purse
from tests.ledger.recorded import EVENT, ME, Recorded


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded.make(tmp_path, monkeypatch)


def call(purse: Purse, *words: str) -> tuple[int, str, str]:
    app = typer.Typer(cls=console.error_group("fedvlm-node"))
    app.add_typer(ledger_app(purse.entropy, purse.wall_s), name="ledger")

    @app.command()
    def other() -> None:
        """So that the group keeps its sub-commands."""

    result = CliRunner().invoke(app, ["ledger", "--state", str(purse.state), *words])
    return result.exit_code, result.stdout, result.stderr


def restored(hospital: Recorded, *words: str) -> int:
    """Rounds that the population is charged with after `ledger restore`."""
    named = () if "--population" in words else ("--population", "chest")
    code, text, errors = call(hospital.purse, "restore", str(hospital.folder), "--yes", *named, *words)
    assert (code, "restored up to entry" in text) == (0, True), errors
    return rounds(hospital)


def refused(hospital: Recorded) -> str:
    code, _, errors = call(hospital.purse, "restore", str(hospital.folder), "--yes", "--population", "chest")
    assert code != 0
    return errors


def rounds(hospital: Recorded) -> int:
    steps = tally(hospital.ledger.balance("chest").event)
    per_round = tally(EVENT)
    assert set(steps) <= set(per_round)
    return sum(steps.values()) // sum(per_round.values())


def played(hospital: Recorded) -> None:
    """Run 1 whole, run 2 half way."""
    hospital.start(1)
    for number in (1, 2, 3):
        hospital.round(1, number)
    hospital.end(1)
    hospital.start(2)
    hospital.round(2, 1)
    hospital.round(2, 2)


def test_a_wiped_ledger_comes_back_with_what_was_spent(hospital: Recorded) -> None:
    played(hospital)
    hospital.end(2)
    before = hospital.ledger.balance("chest")
    hospital.lose()
    assert restored(hospital) == 5
    after = hospital.ledger.balance("chest")
    assert after.spent == before.spent and after.limit == before.limit and after.committed == after.spent


def test_yesterdays_ledger_becomes_todays(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    copy = hospital.purse.keep_copy("yesterday")
    anchor = hospital.purse.paths.anchor.read_bytes()
    hospital.round(1, 2)
    hospital.round(1, 3)
    hospital.end(1)
    today = hospital.ledger.balance("chest")
    hospital.purse.bring_back(copy)
    hospital.purse.paths.anchor.write_bytes(anchor)  # both set back: nothing on this disk shows it
    assert rounds(hospital) == 1
    assert restored(hospital) == 3
    assert hospital.ledger.balance("chest").spent == today.spent


def test_what_only_the_peers_know_is_charged(hospital: Recorded) -> None:
    played(hospital)
    hospital.end(2)
    hospital.lose(own_records=True)
    # Nobody else can end run 2 for this hospital: the round that may have begun counts, up to the run's own length.
    assert restored(hospital) == 3 + 3
    assert hospital.ledger.balance("chest").limit == 0


def test_a_run_under_way_is_charged_the_round_that_may_have_begun(hospital: Recorded) -> None:
    played(hospital)
    hospital.lose()
    assert restored(hospital) == 6


def test_a_round_it_sent_to_and_was_lost_in_is_on_its_own_record(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    hospital.round(1, 2, survives=False)
    hospital.round(1, 3, sends=False, survives=False)
    hospital.end(1)
    hospital.lose()
    assert restored(hospital) == 2


def test_restoring_twice_charges_once(hospital: Recorded) -> None:
    played(hospital)
    hospital.lose()
    assert restored(hospital) == restored(hospital) == 6


@pytest.mark.parametrize("lost", [(2,), (1, 2)])
def test_a_second_run_of_the_same_policy_is_added_not_compared(hospital: Recorded, lost: tuple[int, ...]) -> None:
    hospital.start(1)
    for number in (1, 2, 3):
        hospital.round(1, number)
    hospital.end(1)
    copy, anchor = hospital.purse.keep_copy("yesterday"), hospital.purse.paths.anchor.read_bytes()
    hospital.start(2)
    for number in (1, 2, 3):
        hospital.round(2, number)
    hospital.end(2)
    for run in lost:
        shutil.rmtree(hospital.path(ME, run).parent)  # its own records are lost; the copy knows of the first run only
    hospital.purse.bring_back(copy)
    hospital.purse.paths.anchor.write_bytes(anchor)
    assert restored(hospital) == 6


def as_second_membership(hospital: Recorded, run: int, of: int) -> None:
    """The records of `run` are those of the same run id as `of`, under the manifest of another membership."""
    for party in ("aggregator", *chains.NODES):
        path = hospital.path(party, run)
        records = [one.model_copy(update={"run": f"{of:032x}"}) for one in read_chain(path)]
        later = hospital.path(party, of).parent / "epoch-1" / path.name
        later.parent.mkdir()
        later.write_bytes(b"".join(one.to_line() for one in chains.resign(records, chains.KEYS[party])))
        shutil.rmtree(path.parent)


def test_each_membership_of_one_run_counts_by_itself(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    hospital.round(1, 2)
    hospital.end(1)
    hospital.start(2)
    hospital.round(2, 1)
    hospital.end(2)
    as_second_membership(hospital, 2, of=1)
    hospital.lose()
    assert restored(hospital) == 3


def test_a_restored_run_is_over_and_spends_no_more(hospital: Recorded) -> None:
    played(hospital)
    hospital.lose()
    restored(hospital)
    assert hospital.ledger.charged(hospital.run_hash(2), 1) == EVENT
    assert not hospital.ledger.covers(hospital.run_hash(2), EVENT)
    hospital.ledger.reserve(hospital.run_hash(3), "chest", SelfComposed(EVENT, 2))
    assert hospital.ledger.spend(hospital.run_hash(3), 0, EVENT)


def test_a_witness_who_leaves_rounds_out_lowers_nothing(hospital: Recorded) -> None:
    played(hospital)
    hospital.end(2)
    hospital.lose(own_records=True)
    quiet = hospital.path("valley", 2)
    lines = quiet.read_bytes().splitlines(keepends=True)
    quiet.write_bytes(b"".join(lines[:2]))
    assert restored(hospital) == 6


@pytest.mark.parametrize("fault", ["edited", "signed by another", "survivors denied"])
def test_a_forged_witness_is_refused_and_nothing_is_written(hospital: Recorded, fault: str) -> None:
    played(hospital)
    hospital.end(2)
    hospital.lose()
    path = hospital.path("valley", 2)
    if fault == "edited":
        path.write_bytes(path.read_bytes().replace(b'"attempt":1', b'"attempt":2', 1))
    else:
        records = list(read_chain(path))
        at = next(at for at, record in enumerate(records) if isinstance(record.body, Round))
        body = records[at].body
        if fault == "survivors denied":
            assert isinstance(body, Round) and body.ctx is not None and body.survivors is not None
            left = tuple(node for node in body.survivors if node != ME)
            body = body.model_copy(update={"survivors": left, "survivors_hash": survivors_hash(body.ctx, left)})
        records[at] = records[at].model_copy(update={"body": body})
        key = chains.KEYS["harbour" if fault == "signed by another" else "valley"]
        path.write_bytes(b"".join(record.to_line() for record in chains.resign(records, key)))
    errors = refused(hospital)
    assert "RESTORE_WITNESS" in errors and "valley" in errors
    assert not hospital.purse.paths.ledger.exists() and not hospital.purse.paths.anchor.exists()


def test_rounds_after_the_own_last_word_are_not_believed(hospital: Recorded) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    own = hospital._open.pop((ME, 1))
    others = dict(hospital._open)
    hospital._open = {(ME, 1): own}
    hospital.end(1, close=False)
    hospital._open = others
    hospital.round(1, 2)
    hospital.lose()
    assert "round 2, which its own records end before" in refused(hospital)


def test_two_histories_under_the_own_signature_are_refused(hospital: Recorded) -> None:
    played(hospital)
    records = list(read_chain(hospital.path(ME, 2)))
    body = records[1].body.model_copy(update={"attempt": 9})
    records[1] = records[1].model_copy(update={"body": body})
    other = hospital.folder / "clone" / "audit.jsonl"
    other.parent.mkdir()
    other.write_bytes(b"".join(record.to_line() for record in chains.resign(records, chains.KEYS[ME])))
    hospital.lose()
    assert "RESTORE_FORKED" in refused(hospital)


def test_another_consortiums_roster_proves_nothing(hospital: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    played(hospital)
    hospital.lose()
    monkeypatch.setitem(chains.KEYS, "valley", Ed25519PrivateKey.generate())
    (hospital.purse.state / "roster.toml").write_bytes(format_roster(chains.roster()))
    assert "RESTORE_WITNESS" in refused(hospital)


def test_a_run_under_an_earlier_roster_needs_that_roster(hospital: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital.start(1)
    hospital.round(1, 1)
    hospital.lose(own_records=True)
    earlier = hospital.purse.state.parent / "earlier.toml"
    earlier.write_bytes(format_roster(chains.roster()))
    monkeypatch.setitem(chains.KEYS, "valley", Ed25519PrivateKey.generate())
    (hospital.purse.state / "roster.toml").write_bytes(format_roster(chains.roster()))
    assert "RESTORE_WITNESS" in refused(hospital)
    assert restored(hospital, "--roster", str(earlier)) == 2


def test_without_any_record_nothing_is_restored(hospital: Recorded) -> None:
    hospital.lose()
    code, _, errors = call(hospital.purse, "restore", "--yes")
    assert code == 7 and "RESTORE_UNPROVEN" in errors and "collect the audit records" in errors


def test_a_population_that_nobody_names_is_asked_for(hospital: Recorded) -> None:
    played(hospital)
    hospital.lose()
    for words in ((), ("--population", "brain")):
        code, _, errors = call(hospital.purse, "restore", str(hospital.folder), "--yes", *words)
        assert code == 2 and "RESTORE_POPULATION" in errors and "--population NAME" in errors


def test_a_ledger_that_stands_is_charged_no_more_than_it_was(hospital: Recorded) -> None:
    played(hospital)
    hospital.end(2)
    before = hospital.ledger.balance("chest")
    assert restored(hospital) == 5
    assert hospital.ledger.balance("chest").limit == before.limit


def test_program_output_names_the_new_head(hospital: Recorded) -> None:
    played(hospital)
    hospital.lose()
    code, text, _ = call(hospital.purse, "--json", "restore", str(hospital.folder), "--population", "chest", "--yes")
    assert code == 0 and "chest" in json.loads(text)["done"]
