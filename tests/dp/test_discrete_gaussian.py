"""Integer noise: the law it has, not the law it was meant to have."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import stats

from fedvlm_secure.dp.discrete_gaussian import LARGEST_NOISE_VARIANCE, DiscreteGaussian, _Draws
from fedvlm_secure.dp.exact_sampler import UniformIntegers, bernoulli_exp, discrete_gaussian
from fedvlm_secure.dp.gaussian_table import LARGEST_VARIANCE, THRESHOLD_BITS, UNDECIDED, gaussian_table
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Secret

KEY = Secret(bytes(range(32)))
SAMPLES = 400_000
TARGET = 2.0**-90


def chi_square_p_value(values: np.ndarray, variance: float) -> float:
    """Pearson's test against exp(-x^2 / 2v), tails pooled so that each cell expects at least 25."""
    reach = math.ceil(12 * math.sqrt(variance))
    support = np.arange(-reach, reach + 1)
    law = np.exp(-(support.astype(float) ** 2) / (2 * variance))
    expected = law / law.sum() * len(values)
    width = max(1, math.isqrt(int(variance)) // 8)
    cells = (support + reach) // width
    observed = np.bincount((values + reach) // width, minlength=cells[-1] + 1).astype(float)
    wanted = np.bincount(cells, weights=expected)
    large = wanted >= 25
    observed = np.append(observed[large], observed[~large].sum())
    wanted = np.append(wanted[large], wanted[~large].sum())
    return float(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)


def table_distance(thresholds: list[int] | tuple[int, ...], bits: int, variance: int) -> mpmath.mpf:
    """Total variation between the law of a threshold table and N_Z(0, variance), by 500-bit arithmetic."""
    with mpmath.workprec(500):
        reach = len(thresholds) // 2
        far = reach + 40 * math.isqrt(variance)
        weight = [mpmath.exp(mpmath.mpf(-x * x) / (2 * variance)) for x in range(far + 1)]
        total = weight[0] + 2 * mpmath.fsum(weight[1:])
        edges = [0, *thresholds, 1 << bits]
        inside = mpmath.fsum(
            abs(mpmath.mpf(edges[i + 1] - edges[i]) / (1 << bits) - weight[abs(i - reach)] / total)
            for i in range(len(edges) - 1)
        )
        return (inside + 2 * mpmath.fsum(weight[reach + 1 :]) / total) / 2


@pytest.mark.parametrize("variance", [1, 16, 4096])
def test_table_is_within_its_stated_distance_of_the_exact_law(variance: int) -> None:
    table = gaussian_table(variance)
    assert table_distance(table.thresholds, THRESHOLD_BITS, variance) <= table.total_variation <= TARGET


@pytest.mark.parametrize("variance", [16, 4096])
def test_double_precision_table_cut_at_12_sigma_would_be_noticed(variance: int) -> None:
    reach = 12 * math.isqrt(variance)
    law = np.exp(-(np.arange(-reach, reach + 1).astype(float) ** 2) / (2 * variance))
    cumulated = np.cumsum(law / law.sum())[:-1]
    thresholds = [min(int(Fraction(float(edge)) * 2**THRESHOLD_BITS), 1 << THRESHOLD_BITS) for edge in cumulated]
    assert table_distance(thresholds, THRESHOLD_BITS, variance) > 2**20 * TARGET


def test_exact_table_cut_at_9_sigma_would_be_noticed() -> None:
    table = gaussian_table(64)
    drop = table.reach - 72
    shorter = table.thresholds[drop:-drop]
    assert table_distance(shorter, THRESHOLD_BITS, 64) > 2**20 * TARGET


@pytest.mark.parametrize("variance", [1, 16, 100, 4096, LARGEST_VARIANCE])
def test_index_lookup_agrees_with_a_search_over_whole_thresholds(variance: int) -> None:
    table = gaussian_table(variance)
    for index in range(0, 1 << 16, 37):
        low, high = table.exact(index << 48, 0), table.exact((index << 48) | (1 << 48) - 1, (1 << 128) - 1)
        assert table.by_index[index] == (low if low == high else UNDECIDED)
    assert table.exact(0, 0) == -table.reach
    assert table.exact((1 << 64) - 1, (1 << 128) - 1) == table.reach


def test_a_tie_on_64_bits_is_decided_by_the_other_128() -> None:
    table = gaussian_table(16)
    threshold = table.thresholds[40]
    head, rest = threshold >> 128, threshold & (1 << 128) - 1
    assert table.exact(head, rest) == 41 - table.reach
    assert table.exact(head, rest - 1) == 40 - table.reach


class Words:
    """A keystream that says what it is told to."""

    def __init__(self, *words: int) -> None:
        self._words = list(words)

    def take(self, count: int) -> np.ndarray:
        taken, self._words = self._words[:count], self._words[count:]
        return np.array(taken, dtype=np.uint64)


@pytest.mark.parametrize(("offset", "step"), [(0, 1), (-1, 0), (1 << 60, 1)])
def test_a_draw_that_ties_with_a_threshold_on_64_bits_reads_on(offset: int, step: int) -> None:
    table = gaussian_table(16)
    for at in (30, 54, 80):
        head, rest = table.thresholds[at] >> 128, (table.thresholds[at] & (1 << 128) - 1) + offset
        draws = _Draws(table, KEY, 0)
        vars(draws).update(
            _indices=Words(head >> 48),
            _continuations=Words((head << 16) & (1 << 64) - 1),
            _rests=Words(rest >> 64, rest & (1 << 64) - 1),
        )
        assert draws.take(1)[0] == at + step - table.reach


@pytest.mark.parametrize("variance", [1, 16, 333, 4096, 150**2, LARGEST_VARIANCE])
def test_samples_follow_the_exact_law(variance: int) -> None:
    values = DiscreteGaussian(variance).sample(KEY, SAMPLES)
    assert chi_square_p_value(values, variance) > 1e-4


@pytest.mark.parametrize("variance", [LARGEST_VARIANCE + 1, 5_000_000, 10**12])
def test_samples_of_split_variances_follow_the_exact_law(variance: int) -> None:
    values = DiscreteGaussian(variance).sample(KEY, SAMPLES)
    standard = values / math.sqrt(variance)
    assert stats.kstest(standard, "norm").pvalue > 1e-4  # a step of 1/512 sigma is invisible at this sample size
    low_bits = np.bincount(values % 64, minlength=64)  # a wrong split shows in the residues
    assert stats.chisquare(low_bits).pvalue > 1e-4


@pytest.mark.parametrize("variance", [LARGEST_VARIANCE + 1, 40 * LARGEST_VARIANCE + 7])
def test_split_law_is_the_discrete_gaussian_to_100_bits(variance: int) -> None:
    wide = variance // 4096 - 8
    narrow = variance - 4096 * wide
    with mpmath.workprec(400):

        def law(x: int, v: int) -> mpmath.mpf:  # for v >= 56 the lattice sum is sqrt(2 pi v) to 1,500 bits
            return mpmath.exp(mpmath.mpf(-x * x) / (2 * v)) / mpmath.sqrt(2 * mpmath.pi * v)

        reach = 20 * math.isqrt(wide) + 20
        for x in (0, 1, 31, 32, 63, 500, 3 * math.isqrt(variance)):
            near = round(x * wide * 4096 / variance / 64)
            folded = mpmath.fsum(law(x - 64 * b, narrow) * law(b, wide) for b in range(near - reach, near + reach + 1))
            assert abs(folded / law(x, variance) - 1) < 2.0**-100


@pytest.mark.parametrize("variance", [16, 64**2, 512**2, 2000**2, 30_000**2, 10**12, LARGEST_NOISE_VARIANCE])
def test_distance_bound_stays_below_the_target(variance: int) -> None:
    assert 0 < DiscreteGaussian(variance).total_variation_bound <= TARGET


def test_exact_sampler_follows_the_exact_law() -> None:
    uniform = UniformIntegers(Keystream(KEY))
    values = np.array([discrete_gaussian(Fraction(81, 4), uniform) for _ in range(12_000)])
    assert chi_square_p_value(values, 81 / 4) > 1e-4


def test_bernoulli_exp_has_the_probability_of_its_name() -> None:
    uniform = UniformIntegers(Keystream(KEY))
    for gamma in (Fraction(0), Fraction(1, 3), Fraction(1), Fraction(5, 2)):
        hits = sum(bernoulli_exp(gamma, uniform) for _ in range(8000))
        assert stats.binomtest(hits, 8000, math.exp(-gamma)).pvalue > 1e-4


def test_uniform_integers_reject_instead_of_reducing() -> None:
    uniform = UniformIntegers(Keystream(KEY))
    draws = np.array(
        [uniform.below(3 << 62) >> 62 for _ in range(6000)]
    )  # reducing 64 bits would make 0 twice as likely
    assert stats.chisquare(np.bincount(draws, minlength=3)).pvalue > 1e-4


def test_shorter_draw_is_a_prefix_and_other_keys_give_other_noise() -> None:
    for variance in (4096, 10**7):
        noise = DiscreteGaussian(variance)
        long = noise.sample(KEY, 100_003)
        for count in (0, 1, 5, 32_768, 32_771):
            np.testing.assert_array_equal(noise.sample(KEY, count), long[:count])
        other = noise.sample(Secret(bytes(32)), 100_003)
        assert abs(np.corrcoef(long, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(long[:-1], long[1:])[0, 1]) < 0.02


def test_noise_is_added_in_place_to_what_was_there() -> None:
    values = np.arange(70_000, dtype=np.int64)
    DiscreteGaussian(100).add_to(values, KEY)
    np.testing.assert_array_equal(values - np.arange(70_000), DiscreteGaussian(100).sample(KEY, 70_000))


@pytest.mark.parametrize("variance", [0, -1, LARGEST_NOISE_VARIANCE + 1, 2.5])
def test_impossible_variance_is_refused(variance: int) -> None:
    with pytest.raises(ValueError, match="variance"):
        DiscreteGaussian(variance)


def test_noise_is_never_added_to_floats() -> None:
    with pytest.raises(ValueError, match="int64"):
        DiscreteGaussian(16).add_to(np.zeros(3), KEY)  # type: ignore[arg-type]
