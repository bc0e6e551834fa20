"""Per-patient gradients to integers by themselves, with an integer L2 norm that is checked, not hoped for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.dp.streams import stream
from fedvlm_secure.errors import ModelError
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Float64Vector, Int64Vector, Secret

REDRAWS = 8
_LOG_REJECTION = 10 * math.log(2)  # a drawing is rejected with probability at most 2^-10
_BLOCK_VALUES = 1 << 16
_LARGEST_SQUARED = 1 << 60
_FLOAT_SLACK = 1 - 2.0**-40

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class IntegerClip:
    """The public clip of a patient's vector, in floats and in grid steps.

    With x = clip_norm / grid = `grid_steps`, stochastic rounding of a vector of norm x has E[norm^2] <= x^2 + d / 4,
    and norm^2 <= x^2 + d / 4 + sqrt(2 ln(1 / beta)) (x + sqrt(d) / 2) except with probability beta; always
    norm <= x + sqrt(d). `squared` is the floor of the smaller bound at beta = 2^-10: the rounding allowance is what
    it exceeds x^2 by, and it is the sensitivity that accounting uses.

    Attributes:
        clip_norm: C, L2, > 0.
        grid_steps: C in grid steps, >= 1; one step is clip_norm / grid_steps.
        dimension: d, >= 1.

    Raises:
        ValueError: out of range, or norms whose squares could leave int64.

    Source: Kairouz, Liu, Steinke 2021, theorem 1 and proposition 22.
    """

    clip_norm: float
    grid_steps: int
    dimension: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0 and self.grid_steps >= 1 and self.dimension >= 1):
            raise ValueError("clip_norm > 0, grid_steps >= 1 and dimension >= 1")
        if (self.grid_steps + math.sqrt(self.dimension)) ** 2 > _LARGEST_SQUARED:
            raise ValueError("grid_steps or dimension too large: squared norms would leave int64")

    @property
    def squared(self) -> int:
        """c~^2: no patient's integer vector has a larger squared norm."""
        x, root = float(self.grid_steps), math.sqrt(self.dimension)
        likely = x * x + self.dimension / 4 + math.sqrt(2 * _LOG_REJECTION) * (x + root / 2)
        return math.floor(min(likely, (x + root) ** 2))

    @property
    def norm(self) -> float:
        """c~ in grid steps, rounded up."""
        return math.nextafter(math.sqrt(self.squared), math.inf)

    @property
    def allowance(self) -> float:
        """c~ / (C / grid) - 1: the share of noise that rounding costs."""
        return self.norm / self.grid_steps - 1

    @property
    def grid(self) -> float:
        """One grid step in units of the gradient."""
        return self.clip_norm / self.grid_steps


def grid_steps_for(dimension: int, allowance: float = 0.005) -> int:
    """The smallest power of two of grid steps per clip norm whose rounding allowance is at most `allowance`.

    Args:
        dimension: d, >= 1.
        allowance: relative, in [1e-4, 1].
    """
    if not 1e-4 <= allowance <= 1:
        raise ValueError("the rounding allowance lies in [1e-4, 1]")
    steps = 1
    while IntegerClip(1.0, steps, dimension).allowance > allowance:
        steps *= 2
    return steps


def round_rows(gradients: NDArray[np.floating], clip: IntegerClip, key: Secret) -> Rows:
    """Clip each row to C, round it to the grid by itself, and see that its integer norm is at most c~.

    A row is rounded stochastically (unbiased) and drawn again, at most 8 times, while its norm is too large; then it is
    truncated toward zero, which never raises the norm. How often a row was drawn depends on it and is not shown.

    Args:
        gradients: float32 or float64 [rows, d], one row per sampled patient.
        clip: the public clip.
        key: 32 fresh bytes, used for this call only.

    Returns:
        int64 [rows, d] in grid steps; every row has squared norm <= clip.squared, checked on the integers.

    Raises:
        ModelError: NON_FINITE_GRADIENT, without values or row.
        ValueError: wrong shape or dtype.
    """
    if gradients.ndim != 2 or gradients.shape[1] != clip.dimension or gradients.dtype not in (np.float32, np.float64):
        raise ValueError(f"gradients must be float [rows, {clip.dimension}]")
    uniform = stream(key, "rounding")
    result: Rows = np.empty(gradients.shape, dtype=np.int64)
    block = max(1, _BLOCK_VALUES // clip.dimension)
    for at in range(0, len(gradients), block):
        result[at : at + block] = _round_block(_clipped(gradients[at : at + block], clip), clip, uniform)
    return result


def _clipped(rows: NDArray[np.floating], clip: IntegerClip) -> NDArray[np.float64]:
    """Rows in grid steps, float64, each of norm <= grid_steps: exactly zero stays zero, infinite is refused."""
    exact = rows.astype(np.float64)
    largest = np.max(np.abs(exact), axis=1, initial=0.0)
    if not np.isfinite(largest).all():
        raise ModelError(
            "NON_FINITE_GRADIENT",
            "a patient's gradient holds NaN or infinity",
            "lower local.learning_rate or look at the model's inputs; nothing was sent",
        )
    # Divided by its largest entry first, no square overflows or vanishes.
    safe = np.where(largest > 0, largest, 1.0)
    unit = exact / safe[:, None]
    norms = np.sqrt(np.einsum("ij,ij->i", unit, unit)) * safe
    factor = clip.clip_norm / np.maximum(norms, clip.clip_norm) * _FLOAT_SLACK
    scaled: NDArray[np.float64] = exact * (factor / clip.grid)[:, None]
    return scaled


def _round_block(scaled: NDArray[np.float64], clip: IntegerClip, uniform: Keystream) -> Rows:
    floor = np.floor(scaled)
    fraction = scaled - floor
    rounded: Rows = np.zeros(scaled.shape, dtype=np.int64)
    left = np.arange(len(scaled))
    for _ in range(1 + REDRAWS):
        bits = uniform.take(len(left) * clip.dimension).reshape(len(left), clip.dimension)
        up = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction[left]
        rounded[left] = floor[left].astype(np.int64) + up
        left = left[_squared_norms(rounded[left]) > clip.squared]
        if not len(left):
            return rounded
    rounded[left] = np.trunc(scaled[left]).astype(np.int64)
    # Cannot be: |trunc| <= |scaled|, whose norm is below grid_steps. If it were, the patient is left out, not let out.
    rounded[left[_squared_norms(rounded[left]) > clip.squared]] = 0
    return rounded


def _squared_norms(rows: Rows) -> Int64Vector:
    result: Int64Vector = np.einsum("ij,ij->i", rows, rows)
    return result


def box_sum(rows: Rows, limit: int) -> Int64Vector:
    """Sum the patients' rows and clip each coordinate of the sum to [-limit, limit].

    Clipping to a box moves two sums no further apart, so one patient's influence stays <= c~ in L2.

    Args:
        rows: int64 [rows, d]; no rows give zeros.
        limit: >= 0, what a lane holds of the sum before noise.
    """
    if rows.dtype != np.int64 or rows.ndim != 2 or limit < 0:
        raise ValueError("rows are int64 [rows, d] and the limit is not negative")
    total: Int64Vector = np.clip(rows.sum(axis=0), -limit, limit)
    return total


def decode(integers: Int64Vector, clip: IntegerClip, divisor: float) -> Float64Vector:
    """Grid steps to gradient units, divided by the public expected batch: float64 [d]."""
    if not (math.isfinite(divisor) and divisor > 0):
        raise ValueError("the divisor is positive: sampling_rate * expected_patients")
    result: Float64Vector = integers.astype(np.float64) * (clip.grid / divisor)
    return result
