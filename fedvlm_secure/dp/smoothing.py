"""How far folded or rounded Gaussians are from one discrete Gaussian, at every point: the tau and kappa of accounting.

Proofs: docs/decisions/0101-accounting-of-shared-integer-noise.md. All results bound |log(p(x) / p'(x))| for every x.
"""

from __future__ import annotations

import math

ROUNDING_VARIANCE = 4
"""Variance given up so that the discrete Gaussian is a post-processing of a continuous one."""

_TWO_PI_SQUARED = 2 * math.pi**2


def _theta_error(variance: float) -> float:
    """eps with sum_x exp(-(x - c)^2 / (2 v)) in sqrt(2 pi v) * [1 - eps, 1 + eps] for every c (Poisson summation)."""
    first = math.exp(-_TWO_PI_SQUARED * variance)
    return 2 * first / (1 - first**3)  # exponents grow as j^2: 1, 4, 9, ...; the ratio of terms is at most first^3


def fold_log_ratio(variance: float) -> float:
    """Bound for the law whose density is exp(-x^2/2s^2) times the lattice sum of a Gaussian of this variance.

    Args:
        variance: h^2 = a^2 b^2 / (a^2 + b^2) in squared steps of the lattice that is summed over, >= 1.
    """
    if not variance >= 1:
        raise ValueError(f"folding is bounded for variances of at least one step squared, got {variance}")
    error = _theta_error(variance)
    return 2 * error / (1 - error)  # log((1 + e) / (1 - e)) <= 2 e / (1 - e)


def shares_log_ratio(share_variance: float, makers: int) -> float:
    """tau: the sum of `makers` draws of N_Z(0, v) against one of N_Z(0, makers * v), per coordinate.

    Source: Kairouz, Liu, Steinke 2021, theorem 1: 10 * sum_{k=1}^{n-1} exp(-2 pi^2 v k / (k + 1)). Our own proof gives
    a little over 4 in place of 10; the published constant is used.
    """
    if makers < 1:
        raise ValueError("noise needs at least one maker")
    return 10 * math.fsum(math.exp(-_TWO_PI_SQUARED * share_variance * k / (k + 1)) for k in range(1, makers))


def rounding_log_ratio() -> float:
    """N_Z(m, s^2) against a continuous Gaussian of variance s^2 - 4 that is rounded at random, per coordinate."""
    return fold_log_ratio(ROUNDING_VARIANCE)
