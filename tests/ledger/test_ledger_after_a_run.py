"""A hospital loses its ledger after a run between real processes, and gets it back from what the others kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedvlm_secure.cli.budgets import population_of
from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.cli.hospitals import phantom_hospitals
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.types import NodeId
from node.ledger import Balance, Ledger
from node.ledger_chain import ledger_paths
from node.main import app

POLICIES = Path(__file__).parents[2] / "policies"
VICTIM = NodeId("harbour")

pytestmark = pytest.mark.e2e


def balance(state: Path) -> Balance:
    return Ledger(ledger_paths(state), lambda: int(time.time())).balance(population_of(VICTIM))


def test_a_lost_ledger_comes_back_from_the_records_of_a_real_run(tmp_path: Path) -> None:
    hospitals = phantom_hospitals(3, seed=5, patients=60)
    path = tmp_path / "policy.yaml"
    expected = {str(hospital.node): 60 for hospital in hospitals}
    changes = {"name": "quick", "rounds": 2, "privacy.steps_per_round": 2, "evaluation.limit": 20}
    derive(POLICIES / "dp_fedavg.yaml", {**changes, "privacy.expected_patients": expected}, path)
    with Consortium(tmp_path / "consortium", path, hospitals, stall_s=60) as running:
        running.set_up()
        running.start()
        running.wait()
        states = {node: member.state for node, member in running.members.items()}
    before = balance(states[VICTIM])
    paths = ledger_paths(states[VICTIM])
    paths.ledger.unlink()
    paths.anchor.unlink()
    others = [str(state / "runs") for node, state in states.items() if node != VICTIM]
    words = ["ledger", "--state", str(states[VICTIM]), "restore", *others, "--population", population_of(VICTIM)]
    result = CliRunner().invoke(app, [*words, "--yes"])
    assert result.exit_code == 0, result.stderr
    after = balance(states[VICTIM])
    assert (after.spent, after.limit, after.delta) == (before.spent, before.limit, before.delta)
    assert after.spent > 0 and after.committed == after.spent
