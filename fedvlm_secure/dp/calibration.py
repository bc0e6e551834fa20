"""The smallest noise multiplier that keeps a whole run within epsilon, on a public grid and rounded up."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from fedvlm_secure.dp.accounting import Adjacency, epsilon
from fedvlm_secure.dp.events import Event, Gaussian, PoissonSampled, SelfComposed
from fedvlm_secure.errors import PolicyError

GRID_PER_UNIT = 1024
"""Multipliers are multiples of 1/1024: exact in a float and the same at every party."""

LARGEST_MULTIPLIER = 256


def calibrate(
    run: Callable[[float], Event], target_epsilon: float, delta: float, adjacency: Adjacency = "add_or_remove"
) -> float:
    """The smallest multiple z of 1/1024 in (0, 256] with epsilon(run(z), delta) <= target_epsilon.

    Args:
        run: everything released for multiplier z; epsilon falls as z grows. It may raise PolicyError where z is too
            small to be carried out, which counts as too little noise.

    Raises:
        PolicyError: EPSILON_UNREACHABLE: even z = 256 costs more.
        ValueError: target_epsilon not finite and positive.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise ValueError("target_epsilon > 0")

    def enough(index: int) -> bool:
        try:
            event = run(index / GRID_PER_UNIT)
        except PolicyError as refused:
            if refused.code == "NOISE_TOO_FINE":
                return False
            raise
        return epsilon(event, delta, adjacency) <= target_epsilon

    # From z = 1 upward first: little noise means wide loss distributions, which are slow to convolve.
    high = GRID_PER_UNIT
    while not enough(high):
        high *= 2
        if high > LARGEST_MULTIPLIER * GRID_PER_UNIT:
            raise PolicyError(
                "EPSILON_UNREACHABLE",
                f"no noise multiplier up to {LARGEST_MULTIPLIER} keeps the run within epsilon {target_epsilon:g}",
                "plan fewer rounds or steps, a lower sampling_rate, or a larger epsilon",
            )
    low = high // 2
    while low > 0 and enough(low):
        high, low = low, low // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high / GRID_PER_UNIT


@lru_cache(maxsize=256)
def calibrate_sampled_gaussian(
    target_epsilon: float, delta: float, sampling_rate: float, steps: int, adjacency: Adjacency = "add_or_remove"
) -> float:
    """`calibrate` for `steps` Poisson-sampled Gaussian sums without integer corrections, which are below 1/1000."""

    def run(multiplier: float) -> Event:
        return SelfComposed(PoissonSampled(sampling_rate, Gaussian(multiplier)), steps)

    return calibrate(run, target_epsilon, delta, adjacency)
