"""Every server algorithm inside whole runs: under masks, after losses and restarts, with its memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.closing import initial_state
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.secagg.messages import OpenEpoch
from fedvlm_secure.types import NodeId
from tests.fl.reference import Coordinate, float32
from tests.support.cohort import Cohort, NumericWork, numeric_policy
from tests.support.liars import LyingAggregator

SECTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "fedprox": {"name": "fedprox", "mu": 0.1},
    "fedavgm": {"name": "fedavgm", "server_lr": 0.7, "momentum": 0.9},
    "fedadagrad": {"name": "fedadagrad", "server_lr": 0.03, "tau": 1e-3},
    "fedadam": {"name": "fedadam", "server_lr": 0.01, "tau": 1e-3},
    "fedyogi": {"name": "fedyogi", "server_lr": 0.01, "tau": 1e-3},
    "fedadam reference_compat": {"name": "fedadam", "server_lr": 0.01, "reference_compat": True},
}
BARE: dict[str, Any] = {"protection": {"method": "none"}, "unsafe_no_protection": True}
UNIFORM: dict[str, Any] = {"weights": "equal"}


def cohort(name: str, n: int = 4, **changes: Any) -> Cohort:
    return Cohort(n, **{"rounds": 3, "seed": 5, "algorithm": SECTIONS[name], **UNIFORM, **changes})


def states(run: Cohort) -> set[str]:
    """Digests of the certified state at every party."""
    nodes = run.federation.nodes.values()
    return {run.federation.state.digest.hex(), *(node.own.memory.state.digest.hex() for node in nodes)}


@pytest.mark.parametrize("name", SECTIONS)
def test_masked_and_unprotected_runs_end_in_the_same_bits_at_every_party(name: str) -> None:
    masked, bare = cohort(name), cohort(name, **BARE)
    masked.run()
    bare.run()
    assert len(states(masked)) == 1
    assert states(masked) == states(bare)


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_a_run_moves_the_model_as_exact_arithmetic_moves_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates on the ring's grid and three equal weights: the mean of the run is known exactly."""
    grid, rounds = 2.0**-16, 4

    def train(self: NumericWork, round_number: int, state: Any) -> LocalUpdate:
        rng = np.random.default_rng([self.seed, round_number])
        self.updates.append((rng.integers(-9000, 9000, self.layout.dimension) * grid).astype(np.float32))
        return LocalUpdate(self.updates[-1], self.rows, 1.0, self.rows, {}, {})

    monkeypatch.setattr(NumericWork, "train", train)
    run = cohort(name, n=3, rounds=rounds, dimension=12)
    run.run()
    case = {key: value for key, value in SECTIONS[name].items() if key != "name"}
    for at in range(12):
        coordinate = Coordinate(name)
        coordinate.values = {"beta1": 0.0 if name == "fedadagrad" else 0.9, "beta2": 0.99, **case}
        coordinate.v = coordinate.values.get("tau", 0.0) ** 2
        for number in range(rounds):
            whole = sum(int(work.updates[number][at] / grid) for work in run.works.values())
            coordinate.step(whole * grid / 3.0)
        assert float(run.federation.state.model[at]) == float32(coordinate.model)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadam reference_compat"])
def test_node_that_missed_a_round_takes_the_memory_over_and_replays_the_next_step(name: str) -> None:
    run = cohort(name, rounds=4)
    run.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1 and f.aggregator.phase is Phase.UPLOAD)
    run.federation.drop(NodeId("d"))
    run.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 2)
    run.federation.connect(NodeId("d"))
    run.run()
    assert [summary["survivors"] for summary in run.summaries()] == [list("abcd"), list("abc"), *[list("abcd")] * 2]
    assert len(states(run)) == 1
    assert run.federation.state.slots["m"].any()


@pytest.mark.parametrize("name", ["fedavgm", "fedyogi"])
def test_aggregator_restarted_between_rounds_still_has_the_memory(name: str) -> None:
    whole, restarted = cohort(name), cohort(name)
    whole.run()
    restarted.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1)
    restarted.federation.restart_aggregator()
    restarted.run()
    assert len(states(restarted)) == 1
    assert np.array_equal(restarted.federation.state.model, whole.federation.state.model)


def test_aggregator_that_forgets_the_momentum_is_found_out() -> None:
    run = cohort("fedavgm")
    run.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1)
    memory = run.federation.aggregator_self.memory
    forgetful = ServerState(memory.state.model, {"m": np.zeros_like(memory.state.slots["m"])})
    memory.commit({"state": forgetful.to_bytes()})
    run.run(until=lambda f: f.aggregator.phase is Phase.CERTIFY and all(n.violations for n in f.nodes.values()))
    assert {error.code for node in run.federation.nodes.values() for error in node.violations} == {"STEP_MISMATCH"}


@pytest.mark.parametrize("name", ["fedavgm", "fedadam"])
def test_a_second_run_under_another_algorithm_does_not_isolate_a_hospital(name: str) -> None:
    """Hospitals train from the weights alone: another memory beside them is no other model."""
    liar = LyingAggregator(4)
    liar.run_attempt(liar.plan(), "abcd")
    opened = liar.another_run()
    policy = numeric_policy(rounds=9, algorithm=SECTIONS[name])  # type: ignore[arg-type]
    for simulated in liar.federation.nodes.values():
        simulated.own = dataclasses.replace(simulated.own, policy=policy)
        simulated.run = NodeRun(simulated.own)
    start = initial_state(policy, opened.manifest.dimension).digest
    manifest = dataclasses.replace(opened.manifest, policy_hash=policy_hash(policy), start_state=start)
    liar.set_up(liar.signer.sign(OpenEpoch, manifest=manifest, epoch=0, first_round=0))
    plan = liar.plan()
    bundles = {node: bundle for node, bundle in liar.collect(plan, "abcd").items() if node != "d"}
    for node in "abc":
        refusal = liar.refuses_to_sign(node, liar.survivor_set(plan, bundles, node), "SURVIVORS_TOO_CLOSE")
        assert refusal.nodes == ("d",)


def test_policies_of_the_repository_name_every_algorithm() -> None:
    folder = Path(__file__).parents[2] / "policies"
    text = "".join(path.read_text() for path in folder.glob("*.yaml"))
    assert all(f"{{name: {name.split()[0]}" in text for name in SECTIONS)
