"""Per-patient gradients to integers by themselves, with an integer L2 norm that is checked, not hoped for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.dp.streams import stream
from fedvlm_secure.errors import ModelError
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Float64Vector, Int64Vector, Secret

REDRAWS = 8
_LOG_REJECTION = 10 * math.log(2)  # a drawing is rejected with probability at most 2^-10
_BLOCK_VALUES = 1 << 16  # so many draws are in what a keystream holds at a time
_LARGEST_SQUARED = 1 << 53  # sums of squares up to here are exact in float64, in any order
_FLOAT_SLACK = 1 - 2.0**-22  # more than float32 makes a row longer
_FRACTION_BITS = 16
_DRAWS_PER_WORD = 64 // _FRACTION_BITS
_NARROW_STEPS = 1 << 14  # with its 16 binary places and a draw, a value of so many grid steps fits into int32
_SMALLEST_SCALE = 1e-30
_SMALLEST_SQUARE = 1e-200

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
        ValueError: out of range, or norms whose squares would not be exact in float64.

    Source: Kairouz, Liu, Steinke 2021, theorem 1 and proposition 22.
    """

    clip_norm: float
    grid_steps: int
    dimension: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0 and self.grid_steps >= 1 and self.dimension >= 1):
            raise ValueError("clip_norm > 0, grid_steps >= 1 and dimension >= 1")
        if (self.grid_steps + math.sqrt(self.dimension)) ** 2 > _LARGEST_SQUARED:
            raise ValueError("grid_steps or dimension too large: squared norms would not be exact")

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

    A row is rounded stochastically (unbiased for what it is in 2^-16 grid steps) and drawn again, at most 8 times,
    while its norm is too large; then it is truncated toward zero, which never raises the norm. How often a row was
    drawn depends on it and is not shown.

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
    result: Rows = np.empty(gradients.shape, dtype=np.int64)
    for number, rounded in enumerate(_rounded(gradients, clip, key)):
        result[number] = rounded
    return result


def add_rounded_rows(total: Int64Vector, gradients: NDArray[np.floating], clip: IntegerClip, key: Secret) -> None:
    """Add the sum of `round_rows(gradients, clip, key)` to `total`, int64 [d], in place, without holding those rows."""
    for rounded in _rounded(gradients, clip, key):
        np.add(total, rounded, out=total)


def _rounded(gradients: NDArray[np.floating], clip: IntegerClip, key: Secret) -> Iterator[NDArray[np.signedinteger]]:
    """Each row in turn, int32 or int64 [d], valid until the next one."""
    if gradients.ndim != 2 or gradients.shape[1] != clip.dimension or gradients.dtype not in (np.float32, np.float64):
        raise ValueError(f"gradients must be float [rows, {clip.dimension}]")
    rounding = _RowRounding(clip, stream(key, "rounding"))
    return map(rounding.of, gradients)


class _RowRounding:
    """One row after the other, in pieces that stay in cache: rounding costs no more than reading the row."""

    def __init__(self, clip: IntegerClip, uniform: Keystream) -> None:
        narrow = clip.grid_steps <= _NARROW_STEPS
        size = min(_BLOCK_VALUES, clip.dimension)
        self._clip, self._uniform = clip, uniform
        self._rounded: NDArray[Any] = np.empty(clip.dimension, dtype=np.int32 if narrow else np.int64)
        self._scaled: NDArray[Any] = np.empty(size, dtype=np.float32 if narrow else np.float64)
        self._exact: NDArray[np.float64] = np.empty(size, dtype=np.float64)

    def of(self, row: NDArray[np.floating]) -> NDArray[np.signedinteger]:
        clip = self._clip
        norm = self._norm(row)
        factor = clip.clip_norm / max(norm, clip.clip_norm) * _FLOAT_SLACK
        scale = factor / clip.grid
        for _ in range(1 + REDRAWS):
            if self._draw(row, scale) <= clip.squared:
                return self._rounded
        if self._truncate(row, scale) > clip.squared:
            # Cannot be: |trunc| <= |scaled|, shorter than grid_steps. If it were, the patient is left out, not let out.
            self._rounded.fill(0)
        return self._rounded

    def _draw(self, row: NDArray[np.floating], scale: float) -> float:
        """Round row * scale up or down by chance; returns the squared norm."""
        squared = 0.0
        for part, rounded in self._parts(row):
            scaled = self._scale(part, scale * 2.0**_FRACTION_BITS)
            np.copyto(rounded, np.rint(scaled, out=scaled), casting="unsafe")
            words = self._uniform.peek(-(-len(part) // _DRAWS_PER_WORD))
            np.add(rounded, words.view("<u2")[: len(part)], out=rounded)
            np.right_shift(rounded, _FRACTION_BITS, out=rounded)  # the floor, for negative values too
            squared += self._square(rounded)
        return squared

    def _truncate(self, row: NDArray[np.floating], scale: float) -> float:
        """Round row * scale toward zero; returns the squared norm."""
        squared = 0.0
        for part, rounded in self._parts(row):
            np.copyto(rounded, self._scale(part, scale), casting="unsafe")
            squared += self._square(rounded)
        return squared

    def _parts(self, row: NDArray[np.floating]) -> Iterator[tuple[NDArray[np.floating], NDArray[Any]]]:
        for at in range(0, len(row), _BLOCK_VALUES):
            yield row[at : at + _BLOCK_VALUES], self._rounded[at : at + _BLOCK_VALUES]

    def _scale(self, part: NDArray[np.floating], scale: float) -> NDArray[Any]:
        scaled = self._scaled[: len(part)]
        narrow = part.dtype == scaled.dtype == np.float32 and _SMALLEST_SCALE < scale < 1 / _SMALLEST_SCALE
        np.multiply(part, scale, out=scaled, dtype=np.float32 if narrow else np.float64, casting="same_kind")
        return scaled

    def _square(self, part: NDArray[Any]) -> float:
        exact = self._exact[: len(part)]
        np.copyto(exact, part)
        return float(np.dot(exact, exact))

    def _norm(self, row: NDArray[np.floating]) -> float:
        """L2, finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            square = sum(self._square(part) for part, _ in self._parts(row))
        if _SMALLEST_SQUARE < square < 1 / _SMALLEST_SQUARE:
            return math.sqrt(square)
        return _careful_norm(row)


def _careful_norm(row: NDArray[np.floating]) -> float:
    """L2 of a row whose squares overflow or vanish; exactly zero stays zero, what is no number is refused."""
    largest = float(np.max(np.abs(row), initial=0.0))
    if not np.isfinite(largest):
        raise ModelError(
            "NON_FINITE_GRADIENT",
            "a patient's gradient holds NaN or infinity",
            "lower local.learning_rate or look at the model's inputs; nothing was sent",
        )
    unit = row.astype(np.float64) / (largest or 1.0)
    return math.sqrt(float(np.dot(unit, unit))) * largest


def boxed(total: Int64Vector, limit: int) -> Int64Vector:
    """A sum of patients' rows, int64 [d], with each coordinate clipped to [-limit, limit].

    Clipping to a box moves two sums no further apart, so one patient's influence stays <= c~ in L2.

    Args:
        limit: >= 0, what a lane holds of the sum before noise.
    """
    if total.dtype != np.int64 or limit < 0:
        raise ValueError("a sum is int64 [d] and the limit is not negative")
    cut: Int64Vector = np.clip(total, -limit, limit)
    return cut


def decode(integers: Int64Vector, clip: IntegerClip, divisor: float) -> Float64Vector:
    """Grid steps to gradient units, divided by the public expected batch: float64 [d]."""
    if not (math.isfinite(divisor) and divisor > 0):
        raise ValueError("the divisor is positive: sampling_rate * expected_patients")
    result: Float64Vector = integers.astype(np.float64) * (clip.grid / divisor)
    return result
