"""One patient leaves, and a reservation that nobody will spend is freed: neither touches a charge."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fedvlm_secure import console
from fedvlm_secure.errors import DataError
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.types import Digest
from node import ledger_release
from node.ledger_commands import ledger_app
from node.ledger_patients import patient_hashes
from node.ledger_restore import restore
from node.pause import KillSwitch
from tests.ledger.purse import PLAN, ROUND, Purse, run_id


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return Purse(tmp_path)


def call(purse: Purse, typed: str, *words: str) -> tuple[int, str, str]:
    app = typer.Typer(cls=console.error_group("fedvlm-node"))
    app.add_typer(ledger_app(purse.entropy, purse.wall_s), name="ledger")

    @app.command()
    def other() -> None:
        """So that the group keeps its sub-commands."""

    result = CliRunner().invoke(app, ["ledger", "--state", str(purse.state), *words], input=typed)
    return result.exit_code, result.stdout, result.stderr


def filled(purse: Purse) -> None:
    ledger = purse.create()
    ledger.bind_patients("chest", patient_hashes([f"P{at}" for at in range(30)], ledger.key))
    ledger.reserve(run_id(0xAB << 240), "chest", PLAN)
    ledger.spend(run_id(0xAB << 240), 0, ROUND)


def test_a_withdrawal_is_kept_as_keyed_hashes_and_takes_no_charge_back(purse: Purse) -> None:
    filled(purse)
    before = purse.open().balance("chest")
    code, text, errors = call(purse, "P3\n p7 \n\nP3\n", "withdraw", "chest")
    assert code == 0 and "2 patients withdrawn" in text and "not unlearned" in text
    after = purse.open().balance("chest")
    assert (after.withdrawn, after.patients, after.spent) == (2, 30, before.spent)
    key = purse.open().key
    assert purse.open().withdrawn("chest") == patient_hashes(["P3", "P7"], key)
    stored = purse.paths.ledger.read_bytes() + purse.paths.anchor.read_bytes()
    assert not any(name in stored + (text + errors).encode() for name in (b"P3", b"p7", b"P7"))
    assert "1 patients withdrawn, 1 were before" in call(purse, "P3\nP4\n", "withdraw", "chest")[1]
    assert "3 withdrawn" in call(purse, "")[1]
    assert json.loads(call(purse, "", "--json")[1])["populations"][0]["patients_withdrawn"] == 3


def test_an_id_that_never_trained_is_a_misspelling_unless_the_operator_says_otherwise(
    purse: Purse, tmp_path: Path
) -> None:
    filled(purse)
    ids = tmp_path / "ids.txt"
    ids.write_text("P3\nP99\n")
    code, text, errors = call(purse, "", "withdraw", "chest", "--from", str(ids))
    assert code == 3 and "PATIENT_UNKNOWN" in errors and "P99" not in text + errors
    assert purse.open().withdrawn("chest") == frozenset()
    assert call(purse, "", "withdraw", "chest", "--from", str(ids), "--ahead")[0] == 0
    assert len(purse.open().withdrawn("chest")) == 2


@pytest.mark.parametrize("typed", ["", "\n \n", b"\xff\xfe"])
def test_no_id_is_one_clear_error(purse: Purse, typed: str) -> None:
    filled(purse)
    code, _, errors = call(purse, typed, "withdraw", "chest")
    assert code == 3 and "PATIENT_ID_MISSING" in errors


def test_who_withdrew_stays_out_after_merge_and_after_a_lost_ledger(purse: Purse) -> None:
    filled(purse)
    ledger = purse.open()
    gone = patient_hashes(["P3"], ledger.key)
    ledger.withdraw_patients("chest", gone)
    ledger.add_population("all", delta=1e-5, epsilon_limit=8.0)
    ledger.merge("chest", "all")
    assert purse.open().withdrawn("all") == gone
    purse.paths.ledger.unlink()
    restore(purse.paths, [], purse.entropy, purse.wall_s)
    assert purse.open().withdrawn("all") == gone


def test_withdrawing_from_the_wrong_population_is_refused(purse: Purse) -> None:
    filled(purse)
    ledger = purse.open()
    ledger.add_population("abdomen", delta=1e-5, epsilon_limit=8.0)
    with pytest.raises(DataError, match="1 of 1 ids"):
        ledger.withdraw_patients("abdomen", patient_hashes(["P3"], ledger.key))


RUN = run_id(0xAB << 240)


def test_a_stale_reservation_is_freed_and_its_charge_stays(purse: Purse) -> None:
    filled(purse)
    before = purse.open().balance("chest")
    assert f"run {RUN.hex()[:16]} reserves for chest" in call(purse, "")[1]
    code, text, _ = call(purse, "", "release", RUN.hex()[:16])  # no journal knows the run any more
    after = purse.open().balance("chest")
    assert code == 0 and "what it spent stays spent" in text
    assert after.spent == before.spent == after.committed < before.committed
    assert not purse.open().covers(RUN, ROUND)
    assert call(purse, "", "release", RUN.hex()[:16])[0] == 2


@pytest.mark.parametrize("prefix", ["", RUN.hex()[:7], "cd" * 8, "zz" * 8])
def test_a_run_is_named_by_enough_digits(purse: Purse, prefix: str) -> None:
    filled(purse)
    code, _, errors = call(purse, "", "release", prefix)
    assert code == 2 and "RUN_UNKNOWN" in errors
    assert purse.open().covers(RUN, ROUND)


class _Opened:
    """As `NodeMemory` of a journal that is in the run."""

    class manifest:
        run_hash = Digest(RUN)

    def __init__(self, journal: SqliteJournal) -> None:
        self.opened_epoch = self


@pytest.mark.parametrize("ending", ["run/finished", "run/aborted", "run/withdrawn", "switch", None])
def test_a_run_under_way_keeps_its_reservation(
    purse: Purse, monkeypatch: pytest.MonkeyPatch, ending: str | None
) -> None:
    filled(purse)
    monkeypatch.setattr(ledger_release, "NodeMemory", _Opened)
    journal = SqliteJournal(purse.state / "journal")
    if ending == "switch":
        KillSwitch(purse.state).withdraw(datetime.now(UTC))
    elif ending is not None:
        journal.commit({ending: b"1"}, [])
    code, _, errors = call(purse, "", "release", RUN.hex()[:16])
    assert code == 7 and "STATE_IN_USE" in errors  # the service runs
    journal.close()
    code, _, errors = call(purse, "", "release", RUN.hex()[:16])
    assert code == (2 if ending is None else 0)
    assert ("RUN_UNDER_WAY" in errors) == (ending is None)
    assert purse.open().covers(RUN, ROUND) == (ending is None)
