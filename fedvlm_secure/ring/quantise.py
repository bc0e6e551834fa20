"""Float32 update -> integers on the public grid, and the sum back to float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.ring.keystream import CACHE_WORDS, Keystream
from fedvlm_secure.ring.lanes import LaneFormat
from fedvlm_secure.types import Float32Vector, Float64Vector, Int64Vector, Secret

WEIGHT_BITS = 16
"""Weights in [0, 1] live on the public grid of 2^-16."""


@dataclass(frozen=True)
class Quantised:
    """One node's integers for a round and how much of the update the clip touched (shown locally only)."""

    integers: Int64Vector
    clipped_share: float


def grid_weight(weight: float) -> int:
    """A weight in [0, 1] as a multiple of 2^-16, rounded to nearest."""
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"a weight lies in [0, 1], got {weight}")
    return round(weight * (1 << WEIGHT_BITS))


class Quantiser:
    """Clips each coordinate to `max_update`, weights it, scales it and rounds it stochastically, piece by piece.

    Args:
        update: float32 [d].
        weight: grid weight, 0 .. 2^16 (see `grid_weight`).
        rounding_key: 32 fresh bytes, never derived from a seed that is later revealed: whoever knows the roundings
            learns the fraction that was rounded away. Coordinate i is rounded by word i of its keystream.

    Raises:
        ValueError: wrong shape, dtype or weight.
    """

    def __init__(
        self,
        update: Float32Vector,
        *,
        layout: UpdateLayout,
        lanes: LaneFormat,
        max_update: float,
        weight: int,
        rounding_key: Secret,
    ) -> None:
        if update.dtype != np.float32 or update.shape != (layout.dimension,):
            raise ValueError(f"update must be float32 [{layout.dimension}]")
        if not 0 <= weight <= 1 << WEIGHT_BITS:
            raise ValueError("a grid weight lies in [0, 2^16]")
        self._update, self._layout, self._key = update, layout, rounding_key
        self._max_update, self._largest = max_update, lanes.largest
        self._factor = float(np.ldexp(float(weight), lanes.scale_bits(max_update) - WEIGHT_BITS))
        self._clipped = 0
        self._values, self._floors = np.empty(CACHE_WORDS), np.empty(CACHE_WORDS)

    @property
    def clipped_share(self) -> float:
        """Share of all coordinates that the clip has touched so far."""
        return self._clipped / self._layout.dimension

    def span(self, start: int, stop: int) -> QuantisedSpan:
        """A reader of coordinates `start` to `stop`, from the first on."""
        stream = Keystream(self._key, start=start - start % 2)
        stream.peek(start % 2)  # an AES block holds two words
        return QuantisedSpan(self, stream, start, stop)

    def round_into(self, out: Int64Vector, at: int, stream: Keystream) -> None:
        """Round coordinates `at` to `at + len(out)`, at most CACHE_WORDS, with the stream's next words.

        Raises:
            ModelError: NON_FINITE_UPDATE with the tensor's name, never its values.
        """
        count = len(out)
        values, floors = self._values[:count], self._floors[:count]
        values[:] = self._update[at : at + count]
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):  # NaN wins every comparison of numpy's min and max
            name = self._layout.tensor_at(at + int(np.argmin(np.isfinite(values))))
            raise ModelError(
                "NON_FINITE_UPDATE",
                f"the update of {name} holds NaN or infinity",
                "lower local.learning_rate, or look at this tensor's inputs; nothing was sent",
            )
        if low < -self._max_update or high > self._max_update:
            self._clipped += int(np.count_nonzero(np.abs(values) > self._max_update))
            np.clip(values, -self._max_update, self._max_update, out=values)
        np.multiply(values, self._factor, out=values)
        np.floor(values, out=floors)
        np.subtract(values, floors, out=values)
        out[:] = floors
        # 53 random bits: the probability to round up is the fraction itself, to the last bit of a float64.
        uniform = stream.peek(count)
        np.right_shift(uniform, np.uint64(11), out=uniform)
        np.multiply(uniform.view(np.int64), 2.0**-53, out=floors)
        out += floors < values
        if max(-int(out.min()), int(out.max())) > self._largest:
            raise ValueError("a rounded value left its lane")  # unreachable while scale_bits keeps its promise


class QuantisedSpan:
    """Reads one span of a quantiser in order."""

    def __init__(self, quantiser: Quantiser, stream: Keystream, start: int, stop: int) -> None:
        self._quantiser, self._stream, self._at, self._stop = quantiser, stream, start, stop
        self._integers: Int64Vector = np.empty(CACHE_WORDS, dtype=np.int64)

    def next(self, most: int) -> Int64Vector:
        """The next integers, at most `most` and at most CACHE_WORDS, none past the span: valid until the next call."""
        part = self._integers[: max(0, min(most, CACHE_WORDS, self._stop - self._at))]
        if len(part):
            self._quantiser.round_into(part, self._at, self._stream)
            self._at += len(part)
        return part


def quantise(
    update: Float32Vector,
    *,
    layout: UpdateLayout,
    lanes: LaneFormat,
    max_update: float,
    weight: int,
    rounding_key: Secret,
) -> Quantised:
    """All integers of an update at once; arguments as for `Quantiser`.

    Returns:
        int64 [d], each of magnitude <= lanes.largest; E[integer] = weight * 2^-16 * clip(update) * 2^scale_bits.

    Raises:
        ModelError: NON_FINITE_UPDATE with the tensor's name, never its values.
        ValueError: wrong shape, dtype or weight.
    """
    quantiser = Quantiser(
        update, layout=layout, lanes=lanes, max_update=max_update, weight=weight, rounding_key=rounding_key
    )
    integers = np.empty(layout.dimension, dtype=np.int64)
    stream = Keystream(rounding_key)
    for at in range(0, layout.dimension, CACHE_WORDS):
        quantiser.round_into(integers[at : at + CACHE_WORDS], at, stream)
    return Quantised(integers, quantiser.clipped_share)


def dequantise(total: Int64Vector, *, scale_bits: int) -> Float64Vector:
    """Exact: the integer sum divided by the public power-of-two scale, float64 [d]."""
    result: Float64Vector = total.astype(np.float64)
    np.multiply(result, np.ldexp(1.0, -scale_bits), out=result)
    return result
