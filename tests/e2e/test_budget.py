"""Differential privacy between real processes: budgets in real ledgers, a hospital killed after its upload, a pause."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedvlm_secure.cli.budgets import population_of
from fedvlm_secure.cli.children import ChildFailed
from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.cli.hospitals import phantom_hospitals
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.projection import project
from fedvlm_secure.types import NodeId
from node.ledger import Balance, Ledger
from node.ledger_chain import ledger_paths
from node.pause import KillSwitch
from tests.support.processes import paused, sessions

POLICIES = Path(__file__).parents[2] / "policies"
VICTIM = NodeId("harbour")

pytestmark = pytest.mark.e2e


def consortium(folder: Path, *, rounds: int, base: str = "dp_fedavg") -> Consortium:
    folder.mkdir(exist_ok=True)
    hospitals = phantom_hospitals(4, seed=5, patients=60)
    path = folder / "policy.yaml"
    expected = {str(hospital.node): 60 for hospital in hospitals}
    changes = {"name": "quick", "rounds": rounds, "evaluation.limit": 20, "privacy.expected_patients": expected}
    steps = {} if base == "dp_distributed" else {"privacy.steps_per_round": 2}
    derive(POLICIES / f"{base}.yaml", {**changes, **steps}, path)
    return Consortium(folder / "consortium", path, hospitals, stall_s=60)


def balance(running: Consortium, node: NodeId) -> Balance:
    ledger = Ledger(ledger_paths(running.members[node].state), lambda: int(time.time()))
    return ledger.balance(population_of(node))


@pytest.mark.parametrize("base", ["dp_fedavg", "dp_distributed"])
def test_a_hospital_killed_after_its_upload_pays_once_and_the_run_costs_what_was_projected(
    tmp_path: Path, base: str
) -> None:
    with consortium(tmp_path, rounds=2, base=base) as running:
        running.set_up()
        running.start()
        running.wait(until=lambda run: any(e.get("event") == "uploaded" and e.get("node") == VICTIM for e in run.steps))
        with paused(running, "coast"):  # too few are left to end the round before the victim is back
            before = sessions(running, VICTIM)
            running.kill(VICTIM)
            assert balance(running, VICTIM).spent > 0  # whoever has its bytes may open them with the others' shares
            running.restart(VICTIM)
            running.wait(until=lambda run: sessions(run, VICTIM) > before)
        running.wait()
    projection = project(load_policy(tmp_path / "policy.yaml"), int(str(running.progress["dimension"])))
    assert projection is not None
    for node in running.members:
        purse = balance(running, node)
        assert purse.spent == pytest.approx(projection.trajectory[-1][1]) and purse.committed == purse.spent
        assert (purse.patients, purse.unprotected) == (60, False)


def test_a_paused_hospital_ends_by_that_name_and_keeps_what_it_has_not_spent(tmp_path: Path) -> None:
    with consortium(tmp_path, rounds=3) as running:
        running.set_up()
        running.start()
        running.wait(until=lambda run: bool(run.progress.get("summaries")))
        KillSwitch(running.members[VICTIM].state).pause(datetime.now(UTC))
        with pytest.raises(ChildFailed) as caught:
            running.wait()
        assert caught.value.code == "NODE_PAUSED"
    assert balance(running, VICTIM).spent < balance(running, VICTIM).limit
