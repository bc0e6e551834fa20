"""Every hospital's own noise is in the sum, and no two steps, hospitals or runs share any.

Each audit is a handful of two-sided tests of standard normal statistics at 5 standard deviations: it raises a false
alarm once in 1.7 million times per test (two-sided normal tail 5.7e-7), fewer than 2e-5 for all of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.train.private import NoisySteps
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.white_box import given_gradients
from fedvlm_secure.types import Entropy, Float64Vector
from fedvlm_secure.vlm.data.rows import Row
from node.main import SystemEntropy
from tests.support.entropy import ShakeEntropy, entropy

DIMENSION, HOSPITALS, FAR = 4096, 3, 5.0
SETTINGS = PrivateSettings(1.0, 1.0, 0.5, 1, 20, 0.01)
NOISE = SETTINGS.noise(DIMENSION).share_variance
LAYOUT = UpdateLayout((TensorSlot("given", (1, DIMENSION)),))
Sources = Callable[[int, int], Entropy]
"""(run, hospital) -> what it draws from."""


def steps(sources: Sources, runs: int = 2, noisy: Sequence[bool] = (True,) * HOSPITALS) -> list[list[Float64Vector]]:
    """Noise of each run's hospitals in grid steps: what two steps of a hospital whose gradients are zero release."""
    rows = [Row("", "-", "vqa", str(number), 0, "") for number in range(20)]
    grid = SETTINGS.clip(DIMENSION).grid / SETTINGS.divisor
    found: list[list[Float64Vector]] = []
    with RowGradients(given_gradients(np.zeros((1, DIMENSION), np.float32))) as gradients:
        for run in range(runs):
            found.append([])
            for hospital in range(HOSPITALS):
                source, own = sources(run, hospital), NoisySteps(rows, SETTINGS, LAYOUT, None)
                with pytest.MonkeyPatch.context() as patch:
                    if not noisy[hospital]:
                        patch.setattr(DiscreteGaussian, "add_to", lambda *_: None)
                    found[-1] += [own.take(gradients, source).gradient / grid for _ in range(2)]
    return found


def audit_every_hospital_adds_its_own_noise(found: list[list[Float64Vector]]) -> None:
    """Variance of each hospital's step, and of the sum that the aggregator would open."""
    spread = np.sqrt(2 / DIMENSION)
    for run in found:
        for at, noise in enumerate(run):
            far = (np.mean(noise**2) / NOISE - 1) / spread
            assert abs(far) < FAR, f"hospital {at // 2}: {np.mean(noise**2) / NOISE:.2f} of the noise"
        total = sum(run[::2])
        assert abs(np.mean(total**2) / (HOSPITALS * NOISE) - 1) / spread < FAR, "the sum lacks noise"


def audit_no_noise_is_used_twice(found: list[list[Float64Vector]]) -> None:
    """Correlation between all pairs of steps, hospitals and runs."""
    for one, other in combinations([noise for run in found for noise in run], 2):
        correlation = float(one @ other) / NOISE / DIMENSION
        assert abs(correlation) * np.sqrt(DIMENSION) < FAR, f"two steps share noise: {correlation:.2f}"


def own(run: int, hospital: int) -> Entropy:
    return entropy(f"cohort {run} {hospital}")


def test_a_sound_cohort_passes() -> None:
    found = steps(own)
    audit_every_hospital_adds_its_own_noise(found)
    audit_no_noise_is_used_twice(found)


def test_the_entropy_of_a_real_node_never_repeats() -> None:
    audit_no_noise_is_used_twice(steps(lambda run, hospital: SystemEntropy()))


def test_noise_on_one_node_only_is_caught() -> None:
    with pytest.raises(AssertionError, match="of the noise"):
        audit_every_hospital_adds_its_own_noise(steps(own, runs=1, noisy=(True, False, False)))


def test_noise_halved_at_one_hospital_is_caught() -> None:
    found = steps(own, runs=1)
    found[0][2] *= 0.5
    with pytest.raises(AssertionError, match="hospital 1"):
        audit_every_hospital_adds_its_own_noise(found)


@pytest.mark.parametrize(
    "sources",
    [
        lambda run, hospital: ShakeEntropy(2026, f"hospital {hospital}"),  # two runs with equal noise
        lambda run, hospital: ShakeEntropy(run, "the policy's seed"),  # equal noise at all hospitals
    ],
    ids=["two runs from one seed", "hospitals from one seed"],
)
def test_fixed_seeds_are_caught(sources: Sources) -> None:
    with pytest.raises(AssertionError, match=r"share noise: (0\.9|1\.0)"):
        audit_no_noise_is_used_twice(steps(sources))
