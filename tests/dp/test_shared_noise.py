"""What is claimed for integer noise made in shares, against the exact law in one dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import comb
from scipy.stats import norm

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.events import SelfComposed, flatten
from fedvlm_secure.dp.shared_noise import SharedNoise, guaranteed_makers, shared_noise
from fedvlm_secure.dp.signal import distributed_ratio, dp_sgd_ratio, require_signal
from fedvlm_secure.dp.smoothing import fold_log_ratio, rounding_log_ratio, shares_log_ratio
from fedvlm_secure.errors import PolicyError


def discrete(variance: float, reach: int) -> np.ndarray:
    """N_Z(0, variance) on -reach .. reach."""
    law = np.exp(-(np.arange(-reach, reach + 1, dtype=float) ** 2) / (2 * variance))
    return law / law.sum()


def sum_of_shares(variance: float, makers: int, reach: int) -> np.ndarray:
    law = discrete(variance, reach)
    total = law
    for _ in range(makers - 1):
        total = np.convolve(total, law)
    return total


def sampled_pair(law: np.ndarray, shift: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Law without the patient, and with the patient drawn at `rate` and shifting by `shift`."""
    without = np.concatenate([law, np.zeros(shift)])
    return without, (1 - rate) * without + rate * np.concatenate([np.zeros(shift), law])


def hockey_stick(p: np.ndarray, q: np.ndarray, value: float) -> float:
    return float(np.maximum(p - math.exp(value) * q, 0).sum())


def sampled_gaussian_delta(multiplier: float, rate: float, value: float) -> float:
    """Closed form for one Poisson-sampled Gaussian, the larger of add and remove (Zhu, Dong, Wang 2022)."""

    def crossing(bound: float) -> float:  # where 1 - q + q exp((2x - 1) / 2s^2) = bound
        inner = (bound - 1 + rate) / rate
        return multiplier**2 * math.log(inner) + 0.5 if inner > 0 else -math.inf

    up, down = crossing(math.exp(value)), crossing(math.exp(-value))
    with_patient = (1 - rate) * norm.sf(up / multiplier) + rate * norm.sf((up - 1) / multiplier)
    remove = with_patient - math.exp(value) * norm.sf(up / multiplier)
    below = (1 - rate) * norm.cdf(down / multiplier) + rate * norm.cdf((down - 1) / multiplier)
    add = norm.cdf(down / multiplier) - math.exp(value) * below
    return float(max(remove, add))


@pytest.mark.parametrize(("variance", "makers"), [(1.0, 2), (1.5, 2), (1.0, 5), (1.5, 3), (2.0, 8)])
def test_sum_of_shares_is_within_the_published_factor_at_every_point(variance: float, makers: int) -> None:
    reach = 40
    total = sum_of_shares(variance, makers, reach)
    exact = discrete(variance * makers, reach * makers)
    middle = slice(reach * makers - 12, reach * makers + 13)
    worst = np.abs(np.log(total[middle] / exact[middle])).max()
    assert worst <= shares_log_ratio(variance, makers)
    if makers == 2:  # further shares smooth what the first two left, so only here is the bound near
        assert worst > shares_log_ratio(variance, makers) / 20


def test_our_own_proof_gives_less_than_the_published_constant() -> None:
    for variance, makers in ((1.0, 2), (2.5, 4), (16.0, 30)):
        own = sum(fold_log_ratio(variance * k / (k + 1)) for k in range(2, makers))
        assert own <= shares_log_ratio(variance, makers)


@pytest.mark.parametrize("narrow", [1.0, 1.3])
def test_randomly_rounded_gaussian_is_within_the_proven_factor(narrow: float) -> None:
    wide, points = 3.0, np.linspace(-20, 20, 40_001)
    density = np.exp(-(points**2) / (2 * wide)) / math.sqrt(2 * math.pi * wide)
    lattice = np.arange(-40, 41)
    kernel = np.exp(-((lattice[:, None] - points) ** 2) / (2 * narrow))
    rounded = (kernel / kernel.sum(axis=0) * density).sum(axis=1) * (points[1] - points[0])
    exact = discrete(wide + narrow, 40)
    near = slice(32, 49)
    worst = np.abs(np.log(rounded[near] / exact[near])).max()
    assert 1e-12 < worst <= fold_log_ratio(narrow)


def test_published_and_proven_constants_have_their_values() -> None:
    # 10 (exp(-16 pi^2) + exp(-64 pi^2 / 3)) and 4 exp(-8 pi^2), by hand
    assert shares_log_ratio(16.0, 3) == pytest.approx(10 * (2.624e-69 + 3.6e-92), rel=0.01, abs=0)
    assert rounding_log_ratio() == pytest.approx(4 * 5.13e-35, rel=0.01, abs=0)
    assert shares_log_ratio(16.0, 1) == 0


@pytest.mark.parametrize(("share", "makers", "clip"), [(16, 1, 3), (16, 1, 5), (16, 2, 4), (20, 3, 9), (100, 2, 12)])
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_claimed_profile_covers_the_exact_one_in_one_dimension(share: int, makers: int, clip: int, rate: float) -> None:
    noise = SharedNoise(share, makers, clip * clip, 1)
    law = sum_of_shares(float(share), makers, 15 * math.isqrt(share) + 15)
    without, with_patient = sampled_pair(law, clip, rate)
    for value in (0.0, 0.1, 0.5, 1.0, 2.0, 3.0):
        exact = max(hockey_stick(with_patient, without, value), hockey_stick(without, with_patient, value))
        if exact > 1e-11:
            assert exact <= sampled_gaussian_delta(noise.effective_multiplier(), rate, value) * (1 + 1e-9)


def test_plain_sigma_over_clip_would_claim_too_little() -> None:
    law = discrete(1.0, 40)
    without, with_patient = sampled_pair(law, 1, 1.0)
    values = np.linspace(0.0, 3.0, 61)
    excess = [hockey_stick(with_patient, without, v) - sampled_gaussian_delta(1.0, 1.0, v) for v in values]
    assert max(excess) > 1e-3


@pytest.mark.parametrize(("share", "makers", "clip", "rate"), [(16, 2, 4, 0.2), (40, 1, 5, 0.01), (64, 3, 14, 0.5)])
def test_renyi_divergence_at_integer_orders_is_covered(share: int, makers: int, clip: int, rate: float) -> None:
    noise = SharedNoise(share, makers, clip * clip, 1)
    multiplier = noise.effective_multiplier()
    law = sum_of_shares(float(share), makers, 15 * math.isqrt(share) + 15)
    law = law[law > 1e-250]
    shifted = np.concatenate([np.zeros(clip), law])[: len(law)]
    for order in (2, 3, 4, 8, 12):
        ratio = (1 - rate) + rate * shifted / law
        inside = slice(clip, None)
        exact = math.log(float((law[inside] * ratio[inside] ** order).sum())) / (order - 1)
        # Mironov, Talwar, Zhang 2019, section 3.3: the Poisson-sampled Gaussian at integer orders
        terms = [
            comb(order, k, exact=True)
            * (1 - rate) ** (order - k)
            * rate**k
            * math.exp(k * (k - 1) / (2 * multiplier**2))
            for k in range(order + 1)
        ]
        assert exact <= math.log(math.fsum(terms)) / (order - 1) * (1 + 1e-9)


def test_composed_steps_are_covered_too() -> None:
    noise = SharedNoise(16, 2, 25, 1)
    law = sum_of_shares(16.0, 2, 80)
    without, with_patient = sampled_pair(law, 5, 0.3)
    one = np.multiply.outer(without, without).ravel(), np.multiply.outer(with_patient, with_patient).ravel()
    exact = brentq(lambda v: max(hockey_stick(*one, v), hockey_stick(*one[::-1], v)) - 1e-4, 0.01, 20)
    claimed = epsilon(SelfComposed(noise.step_event(0.3), 2), 1e-4)
    assert exact <= claimed <= exact * 1.15  # a variance of 32 gives up an eighth of itself


def test_patient_at_two_hospitals_is_covered_in_one_dimension() -> None:
    noise = SharedNoise(30, 2, 49, 1)
    law = sum_of_shares(30.0, 2, 100)
    rate, clip = 0.3, 7
    padded = np.concatenate([law, np.zeros(2 * clip)])
    mixed = sum(
        weight * np.roll(padded, shift)
        for weight, shift in (((1 - rate) ** 2, 0), (2 * rate * (1 - rate), clip), (rate**2, 2 * clip))
    )
    exact = brentq(lambda v: max(hockey_stick(mixed, padded, v), hockey_stick(padded, mixed, v)) - 1e-5, 0.01, 20)
    claimed = epsilon(noise.two_hospital_event(rate), 1e-5)
    assert exact <= claimed <= exact * 1.1


def test_effective_multiplier_is_rounded_down_exactly() -> None:
    noise = SharedNoise(16, 2, 7, 1)
    claimed = noise.effective_multiplier()
    assert claimed**2 * 7 <= 28 < (claimed + 2**-40) ** 2 * 7


def test_shares_are_rounded_up_and_bring_the_noise_that_was_asked_for() -> None:
    for multiplier, clip_squared, makers in ((1.15, 10**6 + 7, 3), (0.71, 12_345, 2), (3.0, 999, 5)):
        noise = shared_noise(multiplier, clip_squared, makers, 10)
        assert noise.guaranteed_variance >= multiplier**2 * clip_squared > noise.guaranteed_variance - makers - 1e-6


def test_every_survivor_adds_a_share_also_beyond_the_guaranteed() -> None:
    noise = SharedNoise(100, 2, 50, 1)
    assert (noise.guaranteed_variance, noise.actual_variance(5)) == (200, 500)


def test_fewer_honest_makers_cost_more_and_own_share_alone_most() -> None:
    noise = shared_noise(1.15, 10**7, 3, 20_000)
    path = [epsilon(SelfComposed(noise.step_event(0.2, makers), 50), 1e-5) for makers in (1, 3, 4)]
    assert path[0] > path[1] > path[2]
    assert path[1] == epsilon(SelfComposed(noise.step_event(0.2), 50), 1e-5)


def test_corrections_are_negligible_at_the_size_of_a_large_model() -> None:
    flat = flatten(SelfComposed(shared_noise(1.15, 2**28, 20, 10_000_000).step_event(0.1), 10_000))
    assert 0 < flat.log_ratio < 1e-20
    assert 0 < flat.total_variation <= 10_000_000 * 10_000 * 20 * 2.0**-90
    table = DiscreteGaussian(shared_noise(1.15, 2**28, 20, 1).share_variance).total_variation_bound
    assert flat.total_variation == pytest.approx(20 * 1e11 * table, rel=1e-9, abs=0)


@pytest.mark.parametrize("variance", [1, 15])
def test_noise_finer_than_four_steps_is_refused(variance: int) -> None:
    with pytest.raises(PolicyError) as caught:
        SharedNoise(variance, 5, 100, 10)
    assert caught.value.code == "NOISE_TOO_FINE"


def test_noise_wider_than_can_be_drawn_is_refused() -> None:
    with pytest.raises(PolicyError) as caught:
        SharedNoise((1 << 50) + 1, 5, 100, 10)
    assert caught.value.code == "NOISE_TOO_WIDE"


def test_nobody_left_to_make_noise_is_refused() -> None:
    assert guaranteed_makers(3, 0) == 2
    assert guaranteed_makers(5, 2) == 3
    for survivors, colluding in ((1, 0), (2, 2)):
        with pytest.raises(PolicyError) as caught:
            guaranteed_makers(survivors, colluding)
        assert caught.value.code == "NO_NOISE_MAKER"
    with pytest.raises(ValueError, match="own hospital"):
        SharedNoise(16, 2, 100, 10).step_event(0.1, makers=0)


def test_noise_to_signal_of_the_phantoms_is_as_worked_out_by_hand() -> None:
    # z sqrt(d) / (q N) = 1.15 * sqrt(20,000) / 120 = 1.3553; three alike: / sqrt(3)
    ratio = dp_sgd_ratio(1.15, 20_000, [120.0] * 3, [1.0] * 3)
    assert ratio.per_hospital == pytest.approx((1.3553,) * 3, abs=1e-4)
    assert ratio.pooled == pytest.approx(0.7825, abs=1e-4)
    # shares of z / sqrt(2) from three hospitals into one sum over 360 patients
    shared = distributed_ratio(1.15 / math.sqrt(2), 20_000, [120.0] * 3)
    assert shared.pooled == pytest.approx(1.15 * math.sqrt(1.5) * math.sqrt(20_000) / 360, rel=1e-9)
    require_signal(ratio)


def test_small_hospital_drowns_the_mean_unless_weights_say_otherwise() -> None:
    equal = dp_sgd_ratio(1.0, 10_000, [4.0, 100.0], [1.0, 1.0])
    assert equal.warnings() == (0,)
    with pytest.raises(PolicyError) as caught:
        require_signal(equal)
    assert caught.value.code == "NOISE_DROWNS_SIGNAL"
    require_signal(dp_sgd_ratio(1.0, 10_000, [4.0, 100.0], [0.04, 1.0]))


def test_ratio_of_exactly_ten_is_accepted() -> None:
    require_signal(dp_sgd_ratio(1.0, 100, [1.0], [1.0]))
    with pytest.raises(PolicyError):
        require_signal(dp_sgd_ratio(math.nextafter(1.0, 2), 100, [1.0], [1.0]))
