"""One patient moves released scores by no more than the noise is made for, and a release costs what it is said to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.events import SelfComposed, flatten
from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT, bound_squared, score_event, score_noise, score_pair
from fedvlm_secure.types import Int64Vector

TASKS = 2
Answers = Sequence[tuple[int, int]]
"""One patient: per task, (right, asked)."""

_one_task = st.integers(0, 50).flatmap(lambda asked: st.tuples(st.integers(0, asked), st.just(asked)))
_patient = st.lists(_one_task, min_size=TASKS, max_size=TASKS)


def total(patients: Sequence[Answers]) -> Int64Vector:
    """The numbers that noise is added to, int64 [2 * tasks]."""
    vectors = [[part for right, asked in patient for part in score_pair(right, asked)] for patient in patients]
    summed: Int64Vector = np.array(vectors, dtype=np.int64).reshape(len(patients), 2 * TASKS).sum(axis=0)
    return summed


@given(st.lists(_patient, max_size=8), _patient)
def test_one_patient_more_moves_the_sum_by_at_most_the_bound(others: list[Answers], one: Answers) -> None:
    moved = total([*others, one]) - total(others)
    assert int((moved**2).sum()) <= bound_squared(TASKS)
    assert math.sqrt(bound_squared(TASKS)) / STEPS_PER_PATIENT <= math.sqrt(2 * TASKS)  # the design's own bound


def test_the_bound_is_reached_so_it_is_not_loose() -> None:
    moved = total([[(3, 3), (0, 7)]])
    assert int((moved**2).sum()) == bound_squared(TASKS)


@given(_one_task)
def test_a_patient_counts_for_one_patient_however_many_questions(one: tuple[int, int]) -> None:
    right, wrong = score_pair(*one)
    assert right + wrong == (STEPS_PER_PATIENT if one[1] else 0)
    if one[1]:
        assert right / STEPS_PER_PATIENT == pytest.approx(one[0] / one[1], abs=0.5 / STEPS_PER_PATIENT)


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3)])
def test_impossible_counts_are_our_mistake(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="between 0"):
        score_pair(*counts)


@pytest.mark.parametrize(("multiplier", "releases"), [(3.7314453125, 1), (2.0, 1), (8.5, 5)])
def test_epsilon_of_a_release_is_the_gaussian_mechanisms(multiplier: float, releases: int) -> None:
    """Against the closed form of Balle and Wang 2018, theorem 8, and dp-accounting called directly."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    ours = epsilon(SelfComposed(score_event(multiplier, TASKS), releases), 1e-5)
    losses = pld.from_gaussian_mechanism(multiplier, value_discretization_interval=1e-4).self_compose(releases)
    assert ours == pytest.approx(losses.get_epsilon_for_delta(1e-5), rel=0.005)
    assert ours >= losses.get_epsilon_for_delta(1e-5) * (1 - 1e-3)
    spread = multiplier / math.sqrt(releases)

    def delta(eps: float) -> float:
        return float(norm.cdf(0.5 / spread - eps * spread) - math.exp(eps) * norm.cdf(-0.5 / spread - eps * spread))

    assert delta(ours) <= 1e-5 < delta(ours * 0.99)


def test_what_the_event_claims_is_what_noise_over_bound_gives() -> None:
    noise = score_noise(3.0, TASKS)
    ((sampled, times),) = flatten(score_event(3.0, TASKS)).counts
    assert times == 1 and getattr(sampled, "sampling_rate", None) == 1.0
    made = math.sqrt(noise.share_variance / bound_squared(TASKS))
    assert made == pytest.approx(3.0, rel=1e-6)
    assert noise.effective_multiplier() <= made
