"""Shared noise on the real machines: how much a published sum holds, who may be missing, what is never done twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.errors import ModelError, PolicyError, RunAborted
from fedvlm_secure.policy.noise_shares import box_of, clip_of, expected_batch, makers_of, noise_of
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.rounds import encoding
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.noised_sum import mean_gradient, noise_in_mean, noised_part
from fedvlm_secure.secagg.messages import UploadBundle
from fedvlm_secure.simulate.crashes import CrashesByChance
from fedvlm_secure.simulate.network import RoughNetwork, Weather
from fedvlm_secure.types import Int64Vector, NodeId, Secret
from tests.support.shared_noise_cohort import SharedNoiseCohort, shared_noise_policy

D = 4000
TOLERANCE = 6 * math.sqrt(2 / D)
"""Six standard deviations of a sample variance over D values, relative: 13 %."""

KEY = Secret(bytes(range(32)))


def multiplier(cohort: SharedNoiseCohort) -> float:
    return cohort.federation.aggregator_self.memory.manifest.noise_multiplier


def share(cohort: SharedNoiseCohort) -> int:
    """Variance of one share, in grid steps squared."""
    return noise_of(cohort.policy, privacy(cohort), multiplier(cohort), D).share_variance


def privacy(cohort: SharedNoiseCohort) -> Distributed:
    assert isinstance(cohort.policy.privacy, Distributed)
    return cohort.policy.privacy


def has_noise_of(noise: Int64Vector, variance: float) -> bool:
    """Whether the values could be noise of this variance around zero."""
    spread = float(np.mean(noise.astype(np.float64) ** 2))
    return abs(spread / variance - 1) < TOLERANCE and abs(float(noise.mean())) < 6 * math.sqrt(variance / D)


def test_a_published_sum_is_the_clipped_sums_and_one_share_of_noise_for_each_hospital() -> None:
    cohort = SharedNoiseCohort(3, rounds=2)
    cohort.federation.run()
    for number in (0, 1):
        assert has_noise_of(cohort.noise(number), 3 * share(cohort))
    correlation = np.corrcoef(cohort.noise(0), cohort.noise(1))[0, 1]
    assert abs(correlation) < 6 / math.sqrt(D)  # each round's noise is its own


def test_the_audit_of_the_noise_sees_that_one_share_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hospital of three adds nothing: within the model (it is the coalition), and visible in the sum."""
    real, calls = noised_part, iter(range(99))

    def lazy(*args: object, **named: object) -> Int64Vector:
        part = real(*args, **named)  # type: ignore[arg-type]
        return args[2] if next(calls) == 0 else part  # type: ignore[return-value]

    monkeypatch.setattr(encoding, "noised_part", lazy)
    cohort = SharedNoiseCohort(3)
    cohort.federation.run()
    assert not has_noise_of(cohort.noise(), 3 * share(cohort))
    assert has_noise_of(cohort.noise(), 2 * share(cohort))
    assert 2 * share(cohort) >= (multiplier(cohort) ** 2) * clip_of(privacy(cohort), D).squared  # what is accounted for


def test_a_round_where_nobody_was_drawn_is_noise_alone_and_looks_like_any_other() -> None:
    quiet, busy = SharedNoiseCohort(3, scale=0.0), SharedNoiseCohort(3, scale=300.0)
    for cohort in (quiet, busy):
        cohort.federation.run()
    assert has_noise_of(quiet.total(), 3 * share(quiet))
    sizes = [
        [message.header.words for _, message in cohort.sent if isinstance(message, UploadBundle)]
        for cohort in (quiet, busy)
    ]
    assert sizes[0] == sizes[1] and len(set(sizes[0])) == 1


@pytest.mark.parametrize("n", [4, 5, 7])
def test_enough_noise_is_left_at_the_fewest_survivors_when_the_coalition_takes_its_own_away(n: int) -> None:
    cohort = SharedNoiseCohort(n)
    names = sorted(cohort.works)
    cohort.federation.run(lambda f: f.aggregator.phase is Phase.UPLOAD)
    terms = cohort.federation.aggregator_self.memory.manifest
    for node in names[: n - terms.min_survivors]:
        cohort.federation.drop(node)
    cohort.federation.run()
    assert len(cohort.results[0].survivors) == terms.min_survivors
    assert has_noise_of(cohort.noise(), terms.min_survivors * share(cohort))
    left = (terms.min_survivors - max(1, terms.colluding)) * share(cohort)
    assert left >= multiplier(cohort) ** 2 * clip_of(privacy(cohort), D).squared


def test_below_the_fewest_survivors_no_sum_is_published() -> None:
    cohort = SharedNoiseCohort(4)
    cohort.federation.run(lambda f: f.aggregator.phase is Phase.UPLOAD)
    for node in ("a", "b"):
        cohort.federation.drop(NodeId(node))
    with pytest.raises(RunAborted):
        cohort.federation.run()
    assert not cohort.results


def test_a_second_attempt_masks_the_same_noised_integers_on_the_same_charge() -> None:
    """Fresh noise in each attempt could be averaged away by whoever opens several."""
    cohort = SharedNoiseCohort(5)
    federation = cohort.federation
    federation.run(lambda f: f.aggregator.phase is Phase.SIGN)
    first = {name: _integers(cohort, name) for name in "abcde"}
    for name in "de":
        federation.drop(NodeId(name))
    federation.run(lambda f: f.aggregator_self.memory.plan.attempt == 1)
    for name in "de":
        federation.connect(NodeId(name))
    federation.run(lambda f: f.aggregator.phase is Phase.SIGN)
    assert {name: _integers(cohort, name) for name in "abcde"} == first
    federation.run()
    assert [summary["attempt"] for summary in federation.aggregator_self.memory.summaries] == [1]
    assert {work.trained for work in cohort.works.values()} == {1}
    assert {len(purse.charges) for purse in federation.purses.values()} == {1}
    assert has_noise_of(cohort.noise(), 5 * share(cohort))


def _integers(cohort: SharedNoiseCohort, name: str) -> bytes | None:
    stored = cohort.federation.nodes[NodeId(name)].own.memory.integers
    assert stored is not None
    return stored.chunk(0)


@pytest.mark.parametrize("seed", range(4))
def test_deaths_and_a_rough_network_neither_add_a_share_nor_lose_one(seed: int) -> None:
    """Hospitals and aggregator die where they write: who trains again does so before anything of the round has left."""
    network = RoughNetwork(np.random.default_rng([seed, 1]), Weather())
    crashes = CrashesByChance(np.random.default_rng([seed, 2]), 0.03, 8)
    cohort = SharedNoiseCohort(5, rounds=2, seed=seed, network=network, crashes=crashes)
    cohort.federation.run()
    for number, result in cohort.results.items():
        assert has_noise_of(cohort.noise(number), len(result.survivors) * share(cohort))
        for node in result.survivors:
            charged = [key for key in cohort.federation.purses[node].charges if key[1] == number]
            assert len(charged) == 1
    assert len(cohort.results) == 2


def test_masked_and_unmasked_sums_are_equal_bit_for_bit() -> None:
    masked = SharedNoiseCohort(3)
    bare = masked.policy.model_copy(
        update={
            "protection": masked.policy.protection.model_copy(update={"method": "none"}),
            "unsafe_no_protection": True,
        }
    )
    twin = SharedNoiseCohort(3, policy=bare)
    for cohort in (masked, twin):
        cohort.federation.run()
    assert np.array_equal(masked.total(), twin.total())
    assert masked.federation.state.digest == twin.federation.state.digest


@pytest.mark.parametrize("name", ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_every_hospital_replays_the_step_of_each_algorithm(name: str) -> None:
    rates = {} if name == "fedavg" else {"server_lr": 0.02}
    cohort = SharedNoiseCohort(3, rounds=2, algorithm={"name": name, **rates})
    cohort.federation.run()
    digests = {node.own.memory.state.digest for node in cohort.federation.nodes.values()}
    assert digests == {cohort.federation.state.digest}
    assert np.any(cohort.federation.state.model)


def test_the_step_is_the_sum_over_public_numbers_whoever_survived() -> None:
    """FedAvg with local rate 1/2: model = 1/2 * C * sum / (grid steps * q * all declared patients)."""
    cohort = SharedNoiseCohort(
        4, algorithm={"name": "fedavg"}, local={"learning_rate": 0.5}, privacy={"clip_norm": 3.0}
    )
    cohort.federation.run(lambda f: f.aggregator.phase is Phase.UPLOAD)
    cohort.federation.drop(NodeId("d"))
    cohort.federation.run()
    assert expected_batch(privacy(cohort)) == 0.2 * 4 * 600
    grid = 3.0 / clip_of(privacy(cohort), D).grid_steps
    expected = 0.5 * grid * cohort.total().astype(np.float64) / (0.2 * 4 * 600)
    np.testing.assert_allclose(cohort.federation.state.model, expected, rtol=1e-6)


def test_the_variance_taken_off_is_that_of_the_noise_in_the_mean() -> None:
    """Nobody is drawn, so the step's mean is noise: its variance is the one that FedAdam leaves out, by survivors."""
    cohort = SharedNoiseCohort(4, scale=0.0, local={"learning_rate": 0.25}, privacy={"clip_norm": 2.0})
    cohort.federation.run()
    mean = mean_gradient(cohort.policy, privacy(cohort), cohort.total(), dimension=D)
    for survivors, fits in ((4, True), (3, False)):
        phi = noise_in_mean(cohort.policy, privacy(cohort), multiplier(cohort), D, survivors)
        assert (abs(float(np.mean(mean**2)) / phi - 1) < TOLERANCE) == fits


def part(integers: Int64Vector | None, **changes: Any) -> Int64Vector:
    policy = shared_noise_policy("abc", **changes)
    assert isinstance(policy.privacy, Distributed)
    return noised_part(policy, policy.privacy, integers, multiplier=1.15, dimension=D, key=KEY)


def test_a_sum_is_cut_before_the_noise_and_never_behind_it() -> None:
    policy = shared_noise_policy("abc")
    assert isinstance(policy.privacy, Distributed)
    box = box_of(policy, policy.privacy, 1.15, D)
    assert box == math.floor(policy.protection.max_update * 360 * clip_of(policy.privacy, D).grid_steps)
    alone = part(np.zeros(D, dtype=np.int64))
    huge = np.full(D, 1 << 40, dtype=np.int64)
    assert np.array_equal(part(huge) - alone, np.full(D, box)) and np.array_equal(part(-huge) - alone, np.full(D, -box))
    small = np.arange(-D // 2, D // 2, dtype=np.int64)
    assert np.array_equal(part(small) - alone, small)
    assert np.array_equal(huge, np.full(D, 1 << 40))  # what local work handed over is left as it was


def test_no_share_of_noise_leaves_the_room_that_its_lane_has_for_it() -> None:
    """The longest draw that the tables hold, in standard deviations, is below what head-room allows for."""
    for variance in (16, 10**4, 1 << 19, 1 << 27, 1 << 33):
        levels = DiscreteGaussian(variance)._levels
        longest = sum(scale * table.reach for scale, table in levels)
        assert longest <= 24 * math.isqrt(variance) + 24


@pytest.mark.parametrize(
    "wrong", [None, np.zeros(D - 1, dtype=np.int64), np.zeros(D), np.zeros(D, dtype=np.int32)], ids=str
)
def test_local_work_that_is_no_clipped_sum_is_refused(wrong: Int64Vector | None) -> None:
    with pytest.raises(ModelError) as caught:
        part(wrong)
    assert caught.value.code == "NO_CLIPPED_SUM"


def test_a_box_beyond_the_lane_is_refused_with_the_update_that_fits() -> None:
    with pytest.raises(PolicyError) as caught:
        part(np.zeros(D, dtype=np.int64), protection={"lanes": "auto", "max_update": 100.0})
    assert caught.value.code == "RING_HEADROOM"
    largest = float(caught.value.hint.split(" to ")[1].split()[0])
    part(np.zeros(D, dtype=np.int64), protection={"lanes": "auto", "max_update": largest * 0.999})
    with pytest.raises(PolicyError):
        part(np.zeros(D, dtype=np.int64), protection={"lanes": "auto", "max_update": largest * 1.01})


def test_counted_makers_never_outnumber_the_honest_survivors_of_a_larger_roster() -> None:
    """Noise is sized for the smallest cohort; whoever joins later makes it only more."""
    from fedvlm_secure.policy import thresholds

    for colluding in ("auto", 0, 1, 2):
        for least in (3, 4, 5, 8):
            names = [f"h{at}" for at in range(least)]
            try:
                policy = shared_noise_policy(names, cohort={"min_nodes": least, "colluding": colluding})
                counted = makers_of(policy)
            except PolicyError:
                continue
            for n in range(least, 60):
                terms = thresholds.resolve(policy.cohort, n)
                assert counted.counted <= terms.min_survivors - max(1, terms.c)
                assert counted.readers <= terms.min_survivors
