"""Lower bounds from trials hold as often as they say, and are no lower than they must be."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from fedvlm_secure.dp.empirical import lower_mu, lower_rate, one_run_epsilon, one_run_p_value


def binomial(trials: int, rate: float) -> list[float]:
    return [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]


def test_rate_is_the_tabled_clopper_pearson_bound() -> None:
    # 8 of 10: the two-sided 90 % interval of the tables begins at 0.4931
    assert lower_rate(8, 10, 0.95) == pytest.approx(0.4931, abs=5e-5)
    assert lower_rate(50, 50, 0.99) == pytest.approx(0.01 ** (1 / 50))
    assert lower_rate(0, 50, 0.99) == 0.0


@pytest.mark.parametrize("mu", [0.1, 0.5, 2.0])
def test_mu_is_overstated_at_most_as_often_as_the_confidence_lets_it(mu: float) -> None:
    # P[right] of the best test of a mu-GDP mechanism, from the normal law alone
    chances = binomial(300, 0.5 * math.erfc(-mu / 2 / math.sqrt(2)))
    overstated = math.fsum(chance for right, chance in enumerate(chances) if lower_mu(right, 300, 0.95) > mu)
    assert 0.02 < overstated <= 0.05


def test_mu_bound_covers_every_threshold_and_not_only_the_best() -> None:
    for shift in (-3.0, -0.5, 0.0, 1.0, 4.0):
        right = (norm.cdf(shift) + norm.sf(shift - 1.3)) / 2
        assert right <= norm.cdf(1.3 / 2) + 1e-12


def test_guessing_by_a_coin_shows_nothing() -> None:
    assert lower_mu(4_900, 10_000, 0.95) == 0.0
    assert lower_mu(5_000, 10_000, 0.95) == 0.0


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "epsilon", "delta", "wanted"),
    [  # the theorem's formula in 40 digits, by sums over the mass function (mpmath 1.3)
        (100, 100, 90, 1.0, 1e-5, 0.000108751171350748),
        (1000, 100, 98, 2.0, 1e-3, 0.13323092372794),
        (60, 40, 35, 1.0, 0.0, 0.0242940083197745),
        (500, 300, 250, 1.5, 1e-4, 0.2725710428847),
        (10, 10, 10, 0.0, 1e-2, 0.0285481770833333),
    ],
)
def test_p_value_is_that_of_the_theorem(
    canaries: int, guesses: int, right: int, epsilon: float, delta: float, wanted: float
) -> None:
    assert one_run_p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize("reveals_all", [False, True])
def test_no_private_mechanism_beats_the_p_value(delta: float, reveals_all: bool) -> None:
    """Randomised response that gives everything, or one canary each, away with probability delta."""
    canaries, epsilon = 24, 1.0
    honest = math.exp(epsilon) / (1 + math.exp(epsilon))
    rate = honest if reveals_all else delta + (1 - delta) * honest
    chances = binomial(canaries, rate)
    for right in range(canaries + 1):
        reached = math.fsum(chances[right:])
        if reveals_all:
            reached = delta + (1 - delta) * reached
        assert reached <= one_run_p_value(canaries, canaries, right, epsilon, delta) + 1e-12


def test_a_hundred_canaries_show_three_and_a_half_at_most() -> None:
    rate = 0.05 ** (1 / 100)
    assert one_run_epsilon(100, 100, 100, 0.0, 0.95) == pytest.approx(math.log(rate / (1 - rate)))
    assert 3.4 < one_run_epsilon(100, 100, 100, 1e-5, 0.95) < 3.5


def test_epsilon_is_where_the_p_value_meets_the_level() -> None:
    shown = one_run_epsilon(200, 120, 105, 1e-5, 0.95)
    assert 1.0 < shown < 2.0
    assert one_run_p_value(200, 120, 105, shown, 1e-5) == pytest.approx(0.05, rel=1e-6)
    assert one_run_epsilon(200, 120, 62, 1e-5, 0.95) == 0.0


@pytest.mark.parametrize(("right", "judged", "confidence"), [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 2, 1.0)])
def test_impossible_counts_are_our_mistake(right: int, judged: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="right"):
        lower_rate(right, judged, confidence)


@pytest.mark.parametrize(
    ("guesses", "right", "epsilon", "delta"), [(11, 5, 1.0, 0.0), (5, 6, 1.0, 0.0), (5, 5, -0.1, 0.0), (5, 5, 1.0, 1.1)]
)
def test_impossible_guesses_are_our_mistake(guesses: int, right: int, epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="guesses"):
        one_run_p_value(10, guesses, right, epsilon, delta)
    with pytest.raises(ValueError, match="confidence"):
        one_run_epsilon(10, 5, 5, 0.0, 1.0)
