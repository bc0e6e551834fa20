"""Epsilon: against the libraries, against closed forms, and never below either where it is a bound."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedvlm_secure.dp.accounting import (
    accountant_name,
    epsilon,
    perturbed_epsilon,
    trajectory,
    two_hospitals,
)
from fedvlm_secure.dp.calibration import GRID_PER_UNIT, calibrate, calibrate_sampled_gaussian
from fedvlm_secure.dp.delta import default_delta, require_delta
from fedvlm_secure.dp.events import (
    Composed,
    Event,
    Gaussian,
    MixtureOfGaussians,
    NonPrivate,
    Perturbed,
    PoissonSampled,
    SelfComposed,
)
from fedvlm_secure.dp.library_events import from_dp_accounting, to_dp_accounting
from fedvlm_secure.dp.shared_noise import shared_noise
from fedvlm_secure.errors import PolicyError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dp_epsilon.json").read_text())
ROWS = VECTORS["expect"]
STEP = PoissonSampled(0.2, Gaussian(1.15))


def run_of(row: dict[str, float]) -> SelfComposed:
    return SelfComposed(PoissonSampled(row["sampling_rate"], Gaussian(row["noise_multiplier"])), int(row["steps"]))


def gaussian_delta(multiplier: float, value: float) -> float:
    """Balle and Wang 2018, theorem 8: the exact privacy profile of the Gaussian mechanism."""
    half, whole = 1 / (2 * multiplier), value * multiplier
    return float(norm.cdf(half - whole) - math.exp(value + norm.logcdf(-half - whole)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"q{row['sampling_rate']}-z{row['noise_multiplier']}")
def test_number_of_record_agrees_with_the_libraries(row: dict[str, float]) -> None:
    ours = epsilon(run_of(row), row["delta"])
    assert row["pld"] * (1 - 1e-6) <= ours <= row["pld"] * 1.01  # our grid is ten times coarser
    assert abs(ours - row["prv"]) <= max(0.01 * row["prv"], 0.02)
    assert ours < row["rdp"]


def test_mixture_agrees_with_the_library() -> None:
    row = VECTORS["two_hospitals_mixture"]
    event = MixtureOfGaussians(1.15, (0.0, 1.0, 2.0), (0.64, 0.32, 0.04))
    assert epsilon(SelfComposed(event, 50), 1e-5) == pytest.approx(row["pld"], rel=1e-3)


@pytest.mark.parametrize(("multiplier", "count"), [(1.0, 1), (5.0, 30), (20.0, 50)])
def test_plain_gaussian_agrees_with_its_closed_form(multiplier: float, count: int) -> None:
    exact = brentq(lambda value: gaussian_delta(multiplier / math.sqrt(count), value) - 1e-6, 0, 200)
    ours = epsilon(SelfComposed(Gaussian(multiplier), count), 1e-6)
    assert exact <= ours <= exact * 1.001


def test_a_patient_at_two_hospitals_costs_about_11_and_18_where_one_has_8() -> None:
    run = SelfComposed(STEP, 50)
    assert epsilon(run, 1e-5) == pytest.approx(8, abs=0.02)
    assert 11 <= two_hospitals(run, 1e-5) <= 12
    noise = shared_noise(1.15, 10**7, 2, 1000)
    assert 18 <= epsilon(SelfComposed(noise.two_hospital_event(0.2), 50), 1e-5) <= 19


def test_images_instead_of_patients_would_tell_2_13_where_30_6_is_true() -> None:
    images = epsilon(SelfComposed(PoissonSampled(0.01, Gaussian(1.0)), 1000), 1e-6)
    ten = MixtureOfGaussians(
        1.0,
        tuple(float(k) for k in range(11)),
        tuple(math.comb(10, k) * 0.01**k * 0.99 ** (10 - k) for k in range(11)),
    )
    assert images == pytest.approx(2.13, abs=0.01)
    assert epsilon(SelfComposed(ten, 1000), 1e-6) == pytest.approx(30.6, abs=0.5)


def test_trajectory_rises_and_ends_at_the_whole_run() -> None:
    path = trajectory(SelfComposed(STEP, 10), 5, 1e-5)
    assert list(path) == sorted(path)
    assert path[-1] == epsilon(SelfComposed(STEP, 50), 1e-5)


def test_order_and_nesting_do_not_change_one_bit() -> None:
    other = Gaussian(7.0)
    one = Composed((SelfComposed(STEP, 3), other, STEP))
    two = Composed((other, SelfComposed(Composed((STEP, STEP)), 2)))
    assert epsilon(one, 1e-5) == epsilon(two, 1e-5)


def test_replace_one_is_larger() -> None:
    run = SelfComposed(STEP, 50)
    assert epsilon(run, 1e-5, "replace_one") > epsilon(run, 1e-5) * 1.2
    with pytest.raises(PolicyError, match="add-or-remove only"):
        epsilon(MixtureOfGaussians(1.0, (1.0,), (1.0,)), 1e-5, "replace_one")


def test_nothing_costs_nothing_and_an_unprotected_release_has_no_bound() -> None:
    assert epsilon(Composed(()), 1e-5) == 0
    assert epsilon(Composed((STEP, NonPrivate())), 1e-5) == math.inf


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(0.049),
        PoissonSampled(1e-6, Gaussian(1e-4)),
        SelfComposed(Gaussian(0.1), 10**9),
        SelfComposed(PoissonSampled(0.5, Gaussian(0.7)), 10**12),
        SelfComposed(MixtureOfGaussians(0.06, (0.0, 2.0), (0.5, 0.5)), 1000),
    ],
    ids=str,
)
def test_hopeless_noise_has_no_bound_instead_of_taking_all_memory(event: Event) -> None:
    assert epsilon(event, 1e-5) == math.inf


def test_large_but_finite_epsilons_are_still_told() -> None:
    exact = brentq(lambda value: gaussian_delta(1 / math.sqrt(1000), value) - 1e-5, 0, 900)
    assert exact <= epsilon(SelfComposed(Gaussian(1.0), 1000), 1e-5) <= exact * 1.001


def test_perturbation_is_charged_in_full() -> None:
    plain = epsilon(SelfComposed(STEP, 50), 1e-5)
    assert epsilon(SelfComposed(Perturbed(STEP, 0.01, 0.0), 50), 1e-5) >= plain + 2 * 0.5
    lossy = epsilon(SelfComposed(Perturbed(STEP, 0.0, 1e-11), 50), 1e-5)
    # beta (1 + e^eps) = 5e-10 * 3,000: a seventh of delta is gone
    assert lossy > epsilon(SelfComposed(STEP, 50), 1e-5 - 5e-10 * (1 + math.exp(plain))) * (1 - 1e-9) > plain
    assert epsilon(SelfComposed(Perturbed(STEP, 0.0, 1e-8), 50), 1e-5) == math.inf
    assert epsilon(SelfComposed(Perturbed(STEP, 1e-30, 1e-36), 50), 1e-5) == pytest.approx(plain, abs=1e-9)


def test_perturbed_epsilon_meets_the_delta_it_promises() -> None:
    def profile(value: float) -> float:
        return gaussian_delta(1.0, value)

    def inverse(delta: float) -> float:
        return float(brentq(lambda value: profile(value) - delta, 0, 60))

    kappa, beta, delta = 0.003, 1e-8, 1e-5
    found = perturbed_epsilon(inverse, kappa, beta, delta)
    spent = math.exp(kappa) * profile(found - 2 * kappa) + beta * (1 + math.exp(found))
    assert spent <= delta * (1 + 1e-9)
    assert spent >= delta * (1 - 1e-6)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 1e-11, math.nan])
def test_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(PolicyError) as caught:
        epsilon(STEP, delta)
    assert caught.value.code == "DELTA_RANGE"


def test_calibrated_noise_is_enough_and_one_step_less_is_not() -> None:
    multiplier = calibrate_sampled_gaussian(8.0, 1e-5, 0.2, 50)
    assert multiplier == pytest.approx(1.15, abs=0.005)
    assert multiplier * GRID_PER_UNIT == int(multiplier * GRID_PER_UNIT)
    less = SelfComposed(PoissonSampled(0.2, Gaussian(multiplier - 1 / GRID_PER_UNIT)), 50)
    more = SelfComposed(PoissonSampled(0.2, Gaussian(multiplier)), 50)
    assert epsilon(more, 1e-5) <= 8.0 < epsilon(less, 1e-5)


def test_calibration_covers_the_integer_corrections() -> None:
    clip_squared, dimension = 4**2, 100  # so coarse that they show

    def run(multiplier: float) -> SelfComposed:
        return SelfComposed(shared_noise(multiplier, clip_squared, 1, dimension).step_event(0.5), 10)

    multiplier = calibrate(run, 4.0, 1e-5)
    assert epsilon(run(multiplier), 1e-5) <= 4.0
    assert multiplier > calibrate(lambda z: SelfComposed(PoissonSampled(0.5, Gaussian(z)), 10), 4.0, 1e-5)


def test_unreachable_epsilon_is_said_so() -> None:
    with pytest.raises(PolicyError) as caught:
        calibrate(lambda z: NonPrivate(), 1.0, 1e-5)
    assert caught.value.code == "EPSILON_UNREACHABLE"


def test_events_translate_to_the_library_and_back() -> None:
    event = Composed((SelfComposed(Gaussian(2.0), 2), SelfComposed(MixtureOfGaussians(1.0, (0.0, 1.0), (0.5, 0.5)), 1)))
    for original in (event, Composed((SelfComposed(STEP, 3),)), Composed((NonPrivate(),))):
        back = from_dp_accounting(to_dp_accounting(original))
        assert epsilon(back, 1e-5) == epsilon(original, 1e-5)
    from dp_accounting import LaplaceDpEvent

    with pytest.raises(ValueError, match="LaplaceDpEvent"):
        from_dp_accounting(LaplaceDpEvent(1.0))


def test_delta_is_judged_against_the_smallest_hospital() -> None:
    assert require_delta(1e-5, 600) is None
    assert "1 / (10 * 600" in (require_delta(2e-4, 600) or "")
    assert require_delta(math.nextafter(1 / 2000, 0), 200) is None
    for delta in (1 / 512, 0.5):  # 1/512 is exact: exactly 1 / N is too large
        with pytest.raises(PolicyError) as caught:
            require_delta(delta, 512)
        assert caught.value.code == "DELTA_TOO_LARGE"
    for missing in (0.0, 1.0, math.nan):
        with pytest.raises(PolicyError) as caught:
            require_delta(missing, 512)
        assert caught.value.code == "DELTA_MISSING"
    assert (default_delta(9_999), default_delta(10_000)) == (1e-5, 1e-6)


def test_accountant_is_named_with_its_version() -> None:
    assert accountant_name().startswith("dp-accounting ")
    assert "0.001" in accountant_name()


def test_library_is_loaded_only_when_an_epsilon_is_asked_for() -> None:
    code = (
        "import sys; import fedvlm_secure.dp.accounting, fedvlm_secure.dp.calibration, fedvlm_secure.dp.shared_noise;"
        "print(any(name.split('.')[0] in ('dp_accounting', 'torch', 'scipy') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
