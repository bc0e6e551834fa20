"""Every shipped policy is read, checked and carried out for two rounds, with numbers instead of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.types import Digest, Float32Vector, NodeId
from tests.support.cohort import POLICIES, Cohort

FILES = sorted(path.name for path in POLICIES.glob("*.yaml"))
LAYOUT = UpdateLayout((TensorSlot("connector.weight", (30,)), TensorSlot("q.lora_A.weight", (4, 5))))
CONNECTOR, LORA = slice(0, 30), slice(30, 50)
HOSPITALS = ("a", "b", "c", "d")


@dataclass
class StagedWork:
    """A hospital that moves what the policy's round trains, and nothing else."""

    policy: Policy
    seed: int
    layout: UpdateLayout = LAYOUT
    seen: list[Float32Vector] = field(default_factory=list)

    @property
    def base_fingerprint(self) -> Digest:
        return Digest(bytes.fromhex(self.policy.model.base.sha256))

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        update = np.random.default_rng([self.seed, round_number]).normal(0, 0.02, 50).astype(np.float32)
        resting = {None: slice(0), "connector": LORA, "lora": CONNECTOR}[self.policy.model.stage_at(round_number)]
        update[resting] = 0.0
        if isinstance(self.policy.privacy, Distributed):  # a clipped sum of gradients, in grid steps
            return LocalUpdate(
                np.zeros(0, np.float32), 0, 0.0, 0, {}, {}, integers=np.rint(update * 2e4).astype(np.int64)
            )
        return LocalUpdate(update, 400, 10.0, 20, {"vqa": 3}, {"vqa": 4})

    def evaluate(self, closed_rounds: int, state: Float32Vector, last: bool) -> None:
        self.seen.append(state)


def two_rounds(name: str, folder: Path) -> Policy:
    changes: dict[str, object] = {"rounds": 2}
    if load_policy(POLICIES / name).model.connector_rounds is not None:
        changes["model.connector_rounds"] = 1
    return derive(POLICIES / name, changes, folder / "two-rounds.yaml")


def hospitals(policy: Policy) -> tuple[str, ...]:
    """Those whom the policy names in public, where it does."""
    named = getattr(policy.privacy, "expected_patients", None) or getattr(policy.weights, "declared", None)
    return HOSPITALS if named is None else tuple(named)


def run(policy: Policy, seed: int = 3) -> tuple[Federation, dict[NodeId, StagedWork]]:
    works = {NodeId(name): StagedWork(policy, at) for at, name in enumerate(hospitals(policy))}
    federation = Federation(policy, works, seed=seed)
    federation.run()
    return federation, works


@pytest.mark.parametrize("name", FILES)
def test_policy_is_feasible_and_runs_to_one_state_at_every_hospital(name: str, tmp_path: Path) -> None:
    feasibility.check(load_policy(POLICIES / name), nodes=3)
    policy = two_rounds(name, tmp_path)
    federation, works = run(policy)
    digests = {node.own.memory.state.digest for node in federation.nodes.values()}
    assert digests == {federation.state.digest}
    voids = [summary["void"] for summary in federation.aggregator_self.memory.summaries]
    assert voids == [False] * policy.rounds_in_all
    for work in works.values():
        assert len(work.seen) == 1 + policy.rounds_in_all
        assert all(np.array_equal(later, work.seen[2]) for later in work.seen[3:])  # a closing round moves nothing
        assert not np.array_equal(work.seen[1], work.seen[0])
        assert not np.array_equal(work.seen[2], work.seen[1])
    assert all(not node.violations for node in federation.nodes.values())


@pytest.mark.parametrize("name", FILES)
def test_policy_explains_itself_in_fewer_than_forty_lines(name: str) -> None:
    lines = (POLICIES / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 160


ALGORITHMS: dict[str, dict[str, object]] = {
    "fedavg": {"name": "fedavg"},
    "fedavgm": {"name": "fedavgm", "momentum": 0.9},
    "fedadagrad": {"name": "fedadagrad", "server_lr": 0.01, "beta1": 0.5},
    "fedadam": {"name": "fedadam", "server_lr": 0.01},
    "fedyogi": {"name": "fedyogi", "server_lr": 0.01},
    "fedadam reference_compat": {"name": "fedadam", "server_lr": 0.01, "reference_compat": True},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_stages_never_move_each_others_tensors_at_any_hospital(algorithm: str, tmp_path: Path) -> None:
    """Bit for bit, although the connector's momentum is not zero when LoRA's rounds begin."""
    changes = {"rounds": 5, "model.connector_rounds": 2, "algorithm": ALGORITHMS[algorithm]}
    federation, works = run(derive(POLICIES / "two_stage.yaml", changes, tmp_path / "staged.yaml"))
    for work in works.values():
        start, one, two, three, four, five = work.seen
        assert np.array_equal(two[LORA], start[LORA])
        assert all(np.array_equal(later[CONNECTOR], two[CONNECTOR]) for later in (three, four, five))
        assert not np.array_equal(one[CONNECTOR], start[CONNECTOR])
        assert not np.array_equal(two[CONNECTOR], one[CONNECTOR])
        assert not np.array_equal(three[LORA], two[LORA])
        assert not np.array_equal(five[LORA], four[LORA])
    assert {node.own.memory.state.digest for node in federation.nodes.values()} == {federation.state.digest}


def test_the_second_stage_begins_where_its_round_is_void() -> None:
    """The round number decides, not how many rounds gave a result: here LoRA's first round gives none."""
    model = {"strategy": "two-stage", "connector_rounds": 1}
    momentum = {"name": "fedavgm", "momentum": 0.9}
    cohort = Cohort(4, rounds=3, model=model, algorithm=momentum, weights="equal")  # type: ignore[arg-type]
    federation = cohort.federation
    cohort.run(until=lambda f: len(f.aggregator_self.memory.summaries) == 1)
    after_first = federation.state
    federation.aggregator._round.request_void()
    federation._deliver(federation.aggregator._broadcast())
    cohort.run()
    assert [summary["void"] for summary in cohort.summaries()] == [False, True, False]
    moved = federation.state.model.astype(np.float64) - after_first.model
    drawn = [np.random.default_rng([work.seed, 2]).normal(0, 0.05, 100) for work in cohort.works.values()]
    assert after_first.numbers["stage"] == 0.0 and federation.state.numbers["stage"] == 1.0
    assert np.abs(moved - np.mean(drawn, axis=0)).max() < 2.0**-14  # no share of the connector's momentum
