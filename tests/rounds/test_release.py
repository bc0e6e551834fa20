"""Noised scores in the protocol: noised before they are stored, charged before they leave, totals only, labelled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT
from fedvlm_secure.policy.private_release import one_release, resolve_score_multiplier, round_event, run_event
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds import terms
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Float32Vector, NodeId
from tests.support.cohort import NumericWork, layout_of, numeric_policy
from tests.support.private_cohort import private_sections

NODES = tuple(NodeId(name) for name in "abcd")
TASKS = ("vqa", "classification")
ALGORITHMS: dict[str, dict[str, object]] = {
    "fedavg": {"name": "fedavg"},
    "fedavgm": {"name": "fedavgm", "momentum": 0.9},
    "fedadam": {"name": "fedadam", "server_lr": 0.01},
}
PATIENTS, RIGHT = 150, {"vqa": 120, "classification": 60}


class ScoredWork(NumericWork):
    """Hands over exact sums over 150 test patients in every round, due or not."""

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        done = super().train(round_number, state)
        right = {task: count * STEPS_PER_PATIENT for task, count in RIGHT.items()}
        wrong = {task: (PATIENTS - count) * STEPS_PER_PATIENT for task, count in RIGHT.items()}
        return LocalUpdate(done.update, 0, 0.0, 0, {}, {}, right, wrong)


def policy_of(release: str, *, rounds: int = 2, algorithm: str = "fedavg", **evaluation: Any) -> Policy:
    sections = private_sections(NODES)
    sections["evaluation"] = {"release": release, **(evaluation or {"epsilon": 1.0})}
    return numeric_policy(rounds=rounds, algorithm=ALGORITHMS[algorithm], **sections)  # type: ignore[arg-type]


def federation_of(policy: Policy, *, victim_limit: float = math.inf) -> Federation:
    works = {name: ScoredWork(layout_of(100), seed=at) for at, name in enumerate(NODES)}
    purses = {name: MemoryPurse(victim_limit if name == NODES[0] else math.inf) for name in NODES}
    return Federation(policy, works, purses=purses)


def signing(federation: Federation, attempt: int) -> bool:
    """Whether the closing round's attempt waits for signatures."""
    if federation.aggregator.phase is not Phase.SIGN:
        return False
    plan = federation.aggregator_self.memory.plan
    return (plan.round, plan.attempt) == (2, attempt)


def summaries(federation: Federation) -> list[dict[str, Any]]:
    return federation.aggregator_self.memory.summaries


@pytest.fixture(scope="module")
def final() -> Federation:
    federation = federation_of(policy_of("final"))
    federation.run()
    return federation


def test_the_final_scores_come_in_a_round_of_their_own_that_moves_nothing(final: Federation) -> None:
    told = summaries(final)
    assert [set(one["released"]) for one in told] == [set(), set(), set(TASKS)]
    assert told[2]["model_before"] == told[2]["model_after"] == told[1]["model_after"]
    assert told[2]["step_norm"] == 0.0 and told[2]["upload_bytes"] < told[1]["upload_bytes"] / 2
    assert {node.own.memory.state.digest for node in final.nodes.values()} == {final.state.digest}
    assert not any(node.violations for node in final.nodes.values())


@pytest.mark.parametrize("algorithm", ["fedavgm", "fedadam"])
def test_a_closing_round_moves_nothing_under_momentum_either(algorithm: str) -> None:
    federation = federation_of(policy_of("final", algorithm=algorithm))
    federation.run()
    assert summaries(federation)[2]["step_norm"] == 0.0 < summaries(federation)[1]["step_norm"]
    assert {node.own.memory.state.digest for node in federation.nodes.values()} == {federation.state.digest}


def test_released_totals_are_near_the_truth_and_say_how_near(final: Federation) -> None:
    for task, numbers in summaries(final)[2]["released"].items():
        assert 5 < numbers["deviation"] < 15
        for kind, exact in (("right", RIGHT[task]), ("wrong", PATIENTS - RIGHT[task])):
            assert abs(numbers[kind] - len(NODES) * exact) < 6 * numbers["deviation"]


def test_the_spread_over_many_draws_is_the_stated_noise() -> None:
    """Planted bug: values that leave without noise, or with less, are not spread like this."""
    policy = policy_of("each", noise_multiplier=2.0)
    update = ScoredWork(layout_of(100), seed=0).train(0, np.zeros(100, np.float32))
    entropy = ShakeEntropy(0, "spread")
    drawn = [terms.scalar_values(policy, update, 1, round_number=0, entropy=entropy)["right:vqa"] for _ in range(400)]
    patients = np.array(drawn) / STEPS_PER_PATIENT
    assert np.mean(patients) == pytest.approx(RIGHT["vqa"], abs=4 * 2.83 / 20)
    assert np.std(patients) == pytest.approx(2.0 * np.sqrt(2), rel=0.2)


def test_exact_sums_are_in_no_journal_and_no_upload(final: Federation) -> None:
    federation = federation_of(policy_of("final"))
    federation.run(lambda f: f.aggregator.phase is Phase.SIGN and f.aggregator_self.memory.plan.round == 2)
    for node in federation.nodes.values():
        stored = node.own.memory.scalars
        assert {f"{kind}:{task}" for kind in ("right", "wrong") for task in TASKS} < set(stored)
        for task in TASKS:
            assert stored[f"right:{task}"] != RIGHT[task] * STEPS_PER_PATIENT


def test_rounds_that_release_nothing_carry_zeros_whatever_local_work_hands_over() -> None:
    federation = federation_of(policy_of("each", rounds=3, every=2, epsilon=1.0))
    seen: list[dict[str, int]] = []
    federation.run(lambda f: f.aggregator.phase is Phase.SIGN and f.aggregator_self.memory.plan.round == 1)
    seen += [node.own.memory.scalars for node in federation.nodes.values()]
    assert all(value == 0 for one in seen for name, value in one.items() if name != "weight")
    federation.run()
    assert [bool(one["released"]) for one in summaries(federation)] == [True, False, True]


def test_each_release_is_charged_with_its_round_and_the_run_stays_within_epsilon() -> None:
    for release in ("final", "each"):
        policy = policy_of(release)
        federation = federation_of(policy)
        federation.run()
        multiplier = federation.aggregator_self.memory.manifest.noise_multiplier
        purse = federation.purses[NODES[0]]
        charged = [purse.charges[key] for key in sorted(purse.charges, key=lambda key: key[1])]
        assert charged == [round_event(policy, multiplier, 100, number) for number in range(policy.rounds_in_all)]
        assert purse.spent() == pytest.approx(epsilon(run_event(policy, multiplier, 100, policy.rounds_in_all), 1e-5))
        assert 7.9 < purse.spent() <= 8.0
    assert charged[0] != charged[1] or release == "each"


def test_a_release_that_the_purse_does_not_cover_does_not_leave() -> None:
    federation = federation_of(
        policy_of("final"), victim_limit=7.95
    )  # training alone comes to less, with scores to more
    federation.run()
    assert len(federation.purses[NODES[0]].charges) == 2
    assert [one["survivors"] for one in summaries(federation)] == [list(NODES), list(NODES), list(NODES[1:])]
    assert summaries(federation)[2]["released"]["vqa"]["deviation"] == pytest.approx(np.sqrt(3) * 5.277, rel=1e-3)


def test_a_release_is_never_free() -> None:
    """Planted bug: a closing round that is charged nothing."""
    policy = policy_of("final", epsilon=1.0)
    closing = round_event(policy, 1.0, 100, policy.rounds)
    assert 0.9 < epsilon(closing, 1e-5) <= 1.0
    assert closing == one_release(policy) and 3 < resolve_score_multiplier(policy) < 4


def test_negative_totals_survive_the_ring() -> None:
    """A hospital without test patients still adds its noise: the sum may lie below zero."""
    policy = policy_of("each", rounds=1, noise_multiplier=40.0)
    works = {name: NumericWork(layout_of(100), seed=at) for at, name in enumerate(NODES)}
    found = []
    for seed in range(4):
        federation = Federation(policy, works, seed=seed)
        federation.run()
        found += [one[kind] for one in summaries(federation)[0]["released"].values() for kind in ("right", "wrong")]
    assert min(found) < 0 < max(found)
    assert max(map(abs, found)) < 6 * 40 * np.sqrt(2 * len(NODES))


@pytest.mark.parametrize("phase", [Phase.UPLOAD, Phase.SIGN, Phase.REVEAL, Phase.CERTIFY])
def test_a_node_lost_in_the_closing_round_comes_back_to_the_same_end(phase: Phase) -> None:
    federation = federation_of(policy_of("final"))
    federation.run(lambda f: f.aggregator.phase is phase and f.aggregator_self.memory.plan.round == 2)
    federation.drop(NODES[0])
    federation.run(lambda f: f.now_s > 30 or f.aggregator.finished)
    federation.connect(NODES[0])
    federation.run()
    assert federation.aggregator.finished and len(summaries(federation)) == 3
    assert len(federation.purses[NODES[0]].charges) in (2, 3)


def test_scores_of_a_later_attempt_are_the_same_numbers() -> None:
    """Fresh noise on the same patients for each attempt would be a second release."""
    federation = federation_of(policy_of("final"))
    federation.run(lambda f: signing(f, 0))
    before = federation.nodes[NODES[0]].own.memory.scalars
    for node in (NODES[1], NODES[2]):
        federation.drop(node)
    federation.run(lambda f: f.aggregator_self.memory.plan.attempt == 1)
    for node in (NODES[1], NODES[2]):
        federation.connect(node)
    federation.run(lambda f: signing(f, 1))
    assert federation.nodes[NODES[0]].own.memory.scalars == before
