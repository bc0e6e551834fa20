"""Poisson sampling: every patient by a coin of its own."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from fedvlm_secure.dp.sampling import poisson_sample, sampling_threshold
from fedvlm_secure.types import Secret


def key(number: int) -> Secret:
    return Secret(number.to_bytes(32, "big"))


def test_threshold_is_exact_and_never_above_the_rate() -> None:
    for rate in (0.1, 0.2, 1 / 3, 0.5, 2.0**-11, 1.0):
        assert Fraction(sampling_threshold(rate), 2**64) == Fraction(rate)
    for rate in (1e-5, 3e-9, 2.0**-64):
        assert 0 < sampling_threshold(rate) <= Fraction(rate) * 2**64 < sampling_threshold(rate) + 1


def test_draw_sizes_are_binomial_not_fixed() -> None:
    sizes = np.array([len(poisson_sample(200, 0.1, key(i))) for i in range(3000)])
    expected = stats.binom.pmf(np.arange(201), 200, 0.1) * 3000
    inside = (expected >= 10).nonzero()[0]
    observed = np.bincount(sizes, minlength=201).astype(float)
    cells = np.append(observed[inside], 3000 - observed[inside].sum())
    wanted = np.append(expected[inside], 3000 - expected[inside].sum())
    assert stats.chisquare(cells, wanted).pvalue > 1e-4


def test_patients_are_drawn_alike_and_independently() -> None:
    drawn = np.zeros((4000, 50))
    for step in range(4000):
        drawn[step, poisson_sample(50, 0.3, key(step))] = 1
    counts = drawn.sum(axis=0)
    statistic = float(((counts - 1200) ** 2 / (4000 * 0.3 * 0.7)).sum())
    assert stats.chi2(50).sf(statistic) > 1e-4
    correlation = np.corrcoef(drawn.T)[np.triu_indices(50, 1)]
    assert np.abs(correlation).max() < 5 / math.sqrt(4000)


def test_an_empty_draw_is_an_answer() -> None:
    assert any(len(poisson_sample(3, 0.05, key(i))) == 0 for i in range(20))
    assert poisson_sample(0, 0.5, key(0)).shape == (0,)


def test_rate_one_takes_everybody() -> None:
    np.testing.assert_array_equal(poisson_sample(1000, 1.0, key(5)), np.arange(1000))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, math.nan, math.inf, 1e-25])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sampling_rate"):
        poisson_sample(10, rate, key(0))
