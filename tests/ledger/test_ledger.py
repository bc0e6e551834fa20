"""The purse: what is covered, what is charged, and that nobody spends twice or too much."""

from __future__ import annotations

import math
import multiprocessing
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.events import Composed, NonPrivate, SelfComposed
from fedvlm_secure.errors import BudgetExhausted, DataError, IdentityError, PolicyError, StorageError
from node.ledger import Ledger
from node.ledger_book import tally, untally
from node.ledger_chain import LedgerPaths
from node.ledger_patients import patient_hashes
from tests.ledger.purse import DELTA, PLAN, ROUND, STEP, Purse, run_id, times


@pytest.fixture
def purse(tmp_path: Path) -> Purse:
    return Purse(tmp_path)


def test_a_round_is_charged_once_and_survives_reopening(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    assert ledger.spend(run_id(1), 1, ROUND) is True
    assert ledger.spend(run_id(1), 1, ROUND) is False  # attempt 2 of the same round
    again = purse.open()
    assert again.spend(run_id(1), 1, ROUND) is False
    balance = again.balance("chest")
    assert balance.event == ROUND
    assert balance.spent == epsilon(ROUND, DELTA)
    assert balance.committed == epsilon(PLAN, DELTA)
    assert balance.remaining == 8.0 - balance.committed


def test_charge_is_composed_not_added_up(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    for number in range(1, 6):
        ledger.spend(run_id(1), number, ROUND)
    assert ledger.balance("chest").spent == epsilon(PLAN, DELTA) < 5 * epsilon(ROUND, DELTA) * 0.8


def test_exactly_at_the_limit_is_covered_and_a_hair_above_is_not(purse: Purse) -> None:
    exact = epsilon(PLAN, DELTA)
    ledger = purse.create(limit=math.nextafter(exact, 0))
    with pytest.raises(BudgetExhausted) as caught:
        ledger.reserve(run_id(1), "chest", PLAN)
    assert caught.value.code == "BUDGET_EXHAUSTED"
    assert ledger.balance("chest").committed == 0
    ledger.set_limit("chest", exact)
    ledger.reserve(run_id(1), "chest", PLAN)
    for number in range(1, 6):
        ledger.spend(run_id(1), number, ROUND)
    assert ledger.balance("chest").remaining == 0
    with pytest.raises(BudgetExhausted):
        ledger.reserve(run_id(2), "chest", STEP)


def test_what_is_reserved_by_one_run_is_not_there_for_another(purse: Purse) -> None:
    ledger = purse.create(limit=epsilon(times(15), DELTA))
    ledger.reserve(run_id(1), "chest", PLAN)
    ledger.reserve(run_id(1), "chest", PLAN)  # asked again after a restart
    with pytest.raises(BudgetExhausted):
        ledger.reserve(run_id(2), "chest", PLAN)
    ledger.spend(run_id(1), 1, ROUND)
    ledger.close_run(run_id(1))
    ledger.close_run(run_id(1))
    ledger.reserve(run_id(2), "chest", PLAN)  # 2 spent + 10 reserved
    assert ledger.balance("chest").event == ROUND


def test_a_closed_run_keeps_its_charges_and_gets_no_more(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    ledger.spend(run_id(1), 1, ROUND)
    ledger.close_run(run_id(1))
    assert ledger.spend(run_id(1), 1, ROUND) is False
    for refused in (lambda: ledger.spend(run_id(1), 2, ROUND), lambda: ledger.reserve(run_id(1), "chest", PLAN)):
        with pytest.raises(PolicyError, match="closed"):
            refused()
    assert not ledger.covers(run_id(1), ROUND)


def test_no_round_beyond_what_was_reserved(purse: Purse) -> None:
    ledger = purse.create(limit=100.0)
    ledger.reserve(run_id(1), "chest", times(3))
    assert ledger.covers(run_id(1), ROUND)
    ledger.spend(run_id(1), 1, ROUND)
    assert not ledger.covers(run_id(1), ROUND)
    with pytest.raises(BudgetExhausted):
        ledger.spend(run_id(1), 2, ROUND)
    with pytest.raises(BudgetExhausted):
        ledger.spend(run_id(1), 2, Composed((STEP, NonPrivate())))
    assert ledger.spend(run_id(1), 2, STEP)


def test_a_round_cannot_be_told_as_another_event(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    ledger.spend(run_id(1), 1, ROUND)
    with pytest.raises(PolicyError) as caught:
        ledger.spend(run_id(1), 1, STEP)
    assert caught.value.code == "RUN_CONFLICT"
    with pytest.raises(PolicyError) as caught:
        ledger.spend(run_id(9), 1, STEP)
    assert caught.value.code == "RUN_CONFLICT"
    with pytest.raises(PolicyError) as caught:
        ledger.reserve(run_id(1), "chest", times(11))
    assert caught.value.code == "RUN_CONFLICT"


def test_limit_lowered_during_a_run_stops_it_before_training(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    ledger.spend(run_id(1), 1, ROUND)
    ledger.set_limit("chest", epsilon(ROUND, DELTA))
    assert not ledger.covers(run_id(1), ROUND)
    with pytest.raises(BudgetExhausted):
        ledger.spend(run_id(1), 2, ROUND)
    assert ledger.balance("chest").event == ROUND


def test_a_second_export_of_the_same_patients_is_recognised(purse: Purse) -> None:
    ledger = purse.create()
    ledger.add_population("abdomen", delta=DELTA, epsilon_limit=8.0)
    ledger.bind_patients("chest", patient_hashes(["P1", "P2", "P3"], ledger.key))
    ledger.bind_patients("chest", patient_hashes(["P3", "P4"], ledger.key))
    with pytest.raises(DataError) as caught:
        ledger.bind_patients("abdomen", patient_hashes([" p4 ", "Q1"], ledger.key))
    assert caught.value.code == "PATIENTS_SHARED"
    assert "1 patients" in caught.value.cause
    assert "p4" not in caught.value.cause.lower().replace("population", "")
    assert (ledger.balance("chest").patients, ledger.balance("abdomen").patients) == (4, 0)


def test_merging_adds_charges_and_keeps_the_lower_limit(purse: Purse) -> None:
    ledger = purse.create()
    ledger.add_population("abdomen", delta=1e-6, epsilon_limit=3.0)
    ledger.bind_patients("abdomen", patient_hashes(["P9"], ledger.key))
    for number, name in enumerate(("chest", "abdomen")):
        ledger.reserve(run_id(number), name, PLAN)
        ledger.spend(run_id(number), 1, ROUND)
    ledger.record_unprotected(run_id(7), "abdomen")
    ledger.merge("abdomen", "chest")
    balance = ledger.balance("chest")
    assert (balance.limit, balance.delta, balance.patients, balance.unprotected) == (3.0, 1e-6, 1, True)
    assert balance.event == times(4)
    ledger.spend(run_id(1), 2, ROUND)  # the other's run goes on, at the merged purse
    assert ledger.balance("chest").event == times(6)
    assert ledger.populations() == ("chest",)
    with pytest.raises(PolicyError, match="merged into chest"):
        ledger.reserve(run_id(3), "abdomen", STEP)
    ledger.bind_patients("chest", patient_hashes(["P9"], ledger.key))


def test_an_unprotected_run_is_shown_for_ever_and_is_no_event(purse: Purse) -> None:
    ledger = purse.create()
    ledger.record_unprotected(run_id(1), "chest")
    with pytest.raises(ValueError, match="unprotected"):
        ledger.reserve(run_id(2), "chest", NonPrivate())
    ledger.reserve(run_id(2), "chest", PLAN)
    balance = purse.open().balance("chest")
    assert balance.unprotected
    assert balance.spent == 0


def test_delta_too_large_for_the_patients_bound_is_refused(purse: Purse) -> None:
    ledger = purse.create()
    ledger.add_population("small", delta=0.005, epsilon_limit=8.0)
    assert "1 / (10 * 50" in (ledger.bind_patients("small", {bytes([i]) * 32 for i in range(50)}) or "")
    with pytest.raises(PolicyError) as caught:
        ledger.bind_patients("small", {bytes([i]) * 32 for i in range(201)})
    assert caught.value.code == "DELTA_TOO_LARGE"
    assert ledger.balance("small").patients == 50


@pytest.mark.parametrize("limit", [-1.0, math.inf, math.nan])
def test_a_limit_is_a_number(purse: Purse, limit: float) -> None:
    ledger = purse.create()
    with pytest.raises(PolicyError) as caught:
        ledger.set_limit("chest", limit)
    assert caught.value.code == "LIMIT_RANGE"


def test_unknown_and_double_populations_are_refused(purse: Purse) -> None:
    ledger = purse.create()
    with pytest.raises(PolicyError) as caught:
        ledger.reserve(run_id(1), "brain", STEP)
    assert caught.value.code == "POPULATION_UNKNOWN"
    with pytest.raises(PolicyError) as caught:
        ledger.add_population("chest", delta=DELTA, epsilon_limit=1.0)
    assert caught.value.code == "POPULATION_EXISTS"


def test_rows_without_a_patient_id_cannot_be_charged() -> None:
    from fedvlm_secure.types import Secret

    with pytest.raises(DataError) as caught:
        patient_hashes(["P1", "  "], Secret(bytes(32)))
    assert caught.value.code == "PATIENT_ID_MISSING"


def test_patient_hashes_say_nothing_without_the_key() -> None:
    import hashlib

    from fedvlm_secure.types import Secret

    one, other = (patient_hashes(["P1"], Secret(bytes([fill]) * 32)) for fill in (1, 2))
    assert one.isdisjoint(other)
    assert hashlib.sha256(b"P1").digest() not in one | other
    assert patient_hashes(["ＭÜller "], Secret(bytes(32))) == patient_hashes(["müller"], Secret(bytes(32)))


def test_two_handles_on_one_ledger_see_each_other(purse: Purse) -> None:
    one = purse.create(limit=epsilon(times(15), DELTA))
    two = purse.open()
    one.reserve(run_id(1), "chest", PLAN)
    with pytest.raises(BudgetExhausted):
        two.reserve(run_id(2), "chest", PLAN)
    two.spend(run_id(1), 1, ROUND)
    assert one.spend(run_id(1), 1, ROUND) is False
    assert one.head == two.head


def _race(paths: LedgerPaths, number: int, results: object) -> None:
    ledger = Ledger(paths, lambda: 1_800_000_000)
    won = 0
    for attempt in range(6):
        run = run_id(100 * number + attempt)
        try:
            ledger.reserve(run, "chest", times(2))
            ledger.spend(run, 1, times(2))
            won += 1
        except BudgetExhausted:
            continue
    results.put(won)  # type: ignore[attr-defined]


def test_two_processes_racing_cannot_overspend_together(purse: Purse) -> None:
    ledger = purse.create(limit=epsilon(times(10), DELTA))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    racers = [context.Process(target=_race, args=(purse.paths, number, results)) for number in (1, 2)]
    for racer in racers:
        racer.start()
    won = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(timeout=60)
    assert sum(won) == 5
    assert ledger.balance("chest").event == times(10)


_SPENDER = """
import sys
from pathlib import Path
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from tests.ledger.purse import STEP, run_id
ledger = Ledger(ledger_paths(Path(sys.argv[1])), lambda: 1_800_000_000)
first = int(sys.argv[2])
for number in range(first, 1000):
    ledger.spend(run_id(1), number, STEP)
    print(number, flush=True)
"""


def test_a_service_killed_anywhere_has_charged_all_it_was_told(purse: Purse) -> None:
    purse.create(limit=1e6).reserve(run_id(1), "chest", times(1000))
    first = 0
    for told in (1, 4, 7):
        command = [sys.executable, "-c", _SPENDER, str(purse.state), str(first)]
        spender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert spender.stdout is not None
        lines = [int(spender.stdout.readline()) for _ in range(told)]
        spender.kill()
        lines += [int(line) for line in spender.stdout.read().split()]
        spender.wait()
        charged = tally(purse.open().balance("chest").event)[STEP]
        assert charged in (lines[-1] + 1, lines[-1] + 2)  # all it said, and perhaps the one it was about to say
        first = charged


def test_files_are_for_their_owner_alone(purse: Purse) -> None:
    purse.create()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (purse.paths.folder, *purse.paths.folder.iterdir())}
    assert modes.pop(purse.paths.folder) == 0o700
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(purse.paths.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(purse.paths.anchor.stat().st_mode) == 0o600
    purse.paths.key.chmod(0o644)
    with pytest.raises(IdentityError):
        purse.open()


def test_clock_set_back_is_refused_and_small_steps_are_not(purse: Purse) -> None:
    ledger = purse.create()
    ledger.reserve(run_id(1), "chest", PLAN)
    purse.now_s -= 299
    ledger.spend(run_id(1), 1, ROUND)
    purse.now_s -= 3600
    with pytest.raises(StorageError) as caught:
        ledger.spend(run_id(1), 2, ROUND)
    assert caught.value.code == "LEDGER_CLOCK"
    assert ledger.balance("chest").event == ROUND


def test_equal_tallies_are_one_event_whatever_the_order() -> None:
    other = Composed((SelfComposed(STEP, 2), NonPrivate()))
    assert untally(tally(Composed((other, STEP)))) == untally(tally(Composed((STEP, NonPrivate(), times(2)))))
