"""The ledger behind a node's machine: opened, bound to its patients, charged by the protocol, closed fail-safe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedvlm_secure.dp.events import NonPrivate, SelfComposed
from fedvlm_secure.errors import BudgetExhausted, DataError, FedvlmError, PolicyError, StorageError
from fedvlm_secure.policy.private_release import resolve_noise_multiplier, round_event
from fedvlm_secure.rounds.purse import Charge
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.types import Digest
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.purse import LedgerPurse, open_purse
from tests.support.private_cohort import private_policy

RUN, OTHER = Digest(bytes(31) + b"\1"), Digest(bytes(31) + b"\2")
PATIENTS = [f"patient-{number}" for number in range(600)]
POLICY = private_policy("abc", rounds=2)
EVENT = round_event(POLICY, resolve_noise_multiplier(POLICY, 100), 100)


class Hospital:
    """One hospital's folder and its operator."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir(mode=0o700)
        self._seconds: Iterator[int] = iter(range(1_800_000_000, 1_900_000_000))

    def operator(self, limit: float) -> Ledger:
        """Opens the ledger and a population by hand."""
        ledger = Ledger.create(ledger_paths(self.state), ShakeEntropy(0, "ledger"), self.wall_s)
        ledger.add_population("chest", delta=1e-5, epsilon_limit=limit)
        return ledger

    def wall_s(self) -> int:
        return next(self._seconds)

    def serve(self, *, private: bool, population: str = "chest", patients: list[str] | None = None) -> LedgerPurse:
        """What the service does at its start."""
        ids = PATIENTS if patients is None else patients
        entropy = ShakeEntropy(1, "service")
        return open_purse(self.state, None, population, ids, private=private, entropy=entropy, wall_s=self.wall_s)[0]

    def ledger(self) -> Ledger:
        return Ledger(ledger_paths(self.state), self.wall_s)


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def charge(round_number: int, run: Digest = RUN) -> Charge:
    return Charge(run, round_number, POLICY.rounds, EVENT, SelfComposed(EVENT, POLICY.rounds))


def test_a_run_that_fits_is_reserved_whole_charged_by_rounds_and_freed_at_its_end(hospital: Hospital) -> None:
    ledger = hospital.operator(limit=8.0)
    purse = hospital.serve(private=True)
    purse.reserve(charge(0))
    assert (ledger.balance("chest").spent, ledger.balance("chest").committed) == (0.0, pytest.approx(8, abs=0.03))
    assert purse.spend(charge(0)) and not purse.spend(charge(0))
    purse.reserve(charge(1))
    spent = ledger.balance("chest").spent
    assert 5 < spent < 7 and ledger.balance("chest").patients == 600
    purse.close(RUN)
    assert ledger.balance("chest").committed == spent


def test_a_run_that_does_not_fit_is_refused_before_its_first_round(hospital: Hospital) -> None:
    hospital.operator(limit=7.0)
    with pytest.raises(BudgetExhausted) as caught:
        hospital.serve(private=True).reserve(charge(0))
    assert caught.value.code == "BUDGET_EXHAUSTED" and "limit" in caught.value.cause
    assert hospital.ledger().balance("chest").committed == 0


def test_a_limit_lowered_between_two_rounds_stops_the_next_one(hospital: Hospital) -> None:
    ledger = hospital.operator(limit=8.0)
    purse = hospital.serve(private=True)
    purse.reserve(charge(0))
    purse.spend(charge(0))
    ledger.set_limit("chest", 6.5)
    with pytest.raises(BudgetExhausted) as caught:
        purse.reserve(charge(1))
    assert "does not cover round 2 of 2" in caught.value.cause
    with pytest.raises(BudgetExhausted):
        purse.spend(charge(1))


def test_two_runs_at_once_cannot_overspend(hospital: Hospital) -> None:
    hospital.operator(limit=9.0)
    one, two = hospital.serve(private=True), hospital.serve(private=True)
    one.reserve(charge(0))
    with pytest.raises(BudgetExhausted):
        two.reserve(charge(0, OTHER))
    one.close(RUN)
    two.reserve(charge(0, OTHER))


def test_a_run_without_protection_opens_a_ledger_with_no_budget_and_leaves_its_mark(hospital: Hospital) -> None:
    purse = hospital.serve(private=False)
    for number in range(3):
        purse.reserve(Charge(RUN, number, 3, NonPrivate(), NonPrivate()))
    purse.close(RUN)
    balance = hospital.ledger().balance("chest")
    assert balance.unprotected and balance.limit == 0 and balance.patients == 600
    with pytest.raises(BudgetExhausted):
        hospital.serve(private=True).reserve(charge(0, OTHER))


def test_a9_private_run_never_opens_a_ledger_by_itself(hospital: Hospital) -> None:
    with pytest.raises(StorageError) as caught:
        hospital.serve(private=True)
    assert caught.value.code == "LEDGER_MISSING" and "fedvlm-node ledger open" in caught.value.hint


@pytest.mark.parametrize("private", [True, False])
def test_a9_wiped_ledger_is_not_replaced_while_its_anchor_stands(hospital: Hospital, private: bool) -> None:
    hospital.operator(limit=8.0)
    ledger_paths(hospital.state).ledger.unlink()
    with pytest.raises(StorageError) as caught:
        hospital.serve(private=private)
    assert caught.value.code == "LEDGER_MISSING"


def test_a9_the_same_patients_under_another_name_are_refused(hospital: Hospital) -> None:
    hospital.operator(limit=8.0).add_population("again", delta=1e-5, epsilon_limit=8.0)
    hospital.serve(private=True)
    with pytest.raises(DataError) as caught:
        hospital.serve(private=True, population="again", patients=[" PATIENT-7 ", "somebody-new"])
    assert caught.value.code == "PATIENTS_SHARED" and "patient-7" not in caught.value.cause.lower()


def test_a_population_that_the_operator_never_opened_is_refused(hospital: Hospital) -> None:
    hospital.operator(limit=8.0)
    with pytest.raises(PolicyError) as caught:
        hospital.serve(private=True, population="abdomen")
    assert caught.value.code == "POPULATION_UNKNOWN"


def test_no_error_names_a_patient(hospital: Hospital) -> None:
    hospital.operator(limit=0.1)
    with pytest.raises(FedvlmError) as caught:
        hospital.serve(private=True).reserve(charge(0))
    assert "patient-" not in str(caught.value) + caught.value.hint
