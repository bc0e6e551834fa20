"""R: the norm of the noise beside the clip of the averaged step. Above 10 the model drowns, whatever epsilon says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedvlm_secure.errors import PolicyError

LARGEST_RATIO = 10.0


@dataclass(frozen=True)
class NoiseToSignal:
    """R per hospital (same order as given) and pooled over the cohort."""

    per_hospital: tuple[float, ...]
    pooled: float

    def warnings(self) -> tuple[int, ...]:
        """Indices of the hospitals whose own R is above 10."""
        return tuple(index for index, ratio in enumerate(self.per_hospital) if ratio > LARGEST_RATIO)


def dp_sgd_ratio(
    noise_multiplier: float, dimension: int, expected_batches: Sequence[float], weights: Sequence[float]
) -> NoiseToSignal:
    """R of one local step: z C sqrt(d) / B_k over C; pooled for the weighted mean of the hospitals' steps.

    Args:
        noise_multiplier: z = sigma / c~, > 0.
        dimension: d.
        expected_batches: B_k = sampling_rate * expected_patients of each hospital, > 0.
        weights: public weights of the mean, >= 0, not all zero.
    """
    per_hospital = tuple(noise_multiplier * math.sqrt(dimension) / _positive(batch) for batch in expected_batches)
    total = math.fsum(weights)
    if len(weights) != len(per_hospital) or min(weights, default=-1.0) < 0 or not total > 0:
        raise ValueError("one weight >= 0 per hospital, not all zero")
    pooled = math.sqrt(math.fsum((w / total * r) ** 2 for w, r in zip(weights, per_hospital, strict=True)))
    return NoiseToSignal(per_hospital, pooled)


def distributed_ratio(share_multiplier: float, dimension: int, expected_batches: Sequence[float]) -> NoiseToSignal:
    """R of one round: every hospital adds a share of noise to its part of one sum over B = sum B_k patients.

    Args:
        share_multiplier: standard deviation of one share over c~, > 0.
        dimension: d.
        expected_batches: B_k of each hospital that takes part, > 0.

    Returns:
        Per hospital: its own share beside its own part of the sum (which nobody sees alone). Pooled: what is released.
    """
    root = math.sqrt(dimension)
    per_hospital = tuple(share_multiplier * root / _positive(batch) for batch in expected_batches)
    pooled = share_multiplier * math.sqrt(len(expected_batches)) * root / math.fsum(expected_batches)
    return NoiseToSignal(per_hospital, pooled)


def require_signal(ratio: NoiseToSignal) -> None:
    """Refuse what cannot learn.

    Raises:
        PolicyError: NOISE_DROWNS_SIGNAL with R pooled.
    """
    if ratio.pooled > LARGEST_RATIO:
        raise PolicyError(
            "NOISE_DROWNS_SIGNAL",
            f"noise {ratio.pooled:.1f} times the clipped step, pooled over all hospitals; at most 10 is accepted",
            "train fewer values (lower lora rank, ffa), sample more patients, or take a larger epsilon",
        )


def _positive(batch: float) -> float:
    if not (math.isfinite(batch) and batch > 0):
        raise ValueError("the expected batch is positive")
    return batch
