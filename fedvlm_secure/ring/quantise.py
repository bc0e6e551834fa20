"""Float32 update -> integers on the public grid, and the sum back to float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.ring.keystream import CHUNK_WORDS, Keystream
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


def quantise(
    update: Float32Vector,
    *,
    layout: UpdateLayout,
    lanes: LaneFormat,
    max_update: float,
    weight: int,
    rounding_key: Secret,
) -> Quantised:
    """Clip each coordinate to `max_update`, weight it, scale it and round it stochastically.

    Args:
        update: float32 [d].
        weight: grid weight, 0 .. 2^16 (see `grid_weight`).
        rounding_key: 32 fresh bytes, never derived from a seed that is later revealed: whoever knows the roundings
            learns the fraction that was rounded away.

    Returns:
        int64 [d], each of magnitude <= lanes.largest; E[integer] = weight * 2^-16 * clip(update) * 2^scale_bits.

    Raises:
        ModelError: NON_FINITE_UPDATE with the tensor's name, never its values.
        ValueError: wrong shape, dtype or weight.
    """
    if update.dtype != np.float32 or update.shape != (layout.dimension,):
        raise ValueError(f"update must be float32 [{layout.dimension}]")
    if not 0 <= weight <= 1 << WEIGHT_BITS:
        raise ValueError("a grid weight lies in [0, 2^16]")
    factor = np.ldexp(float(weight), lanes.scale_bits(max_update) - WEIGHT_BITS)
    stream = Keystream(rounding_key)
    integers = np.empty(layout.dimension, dtype=np.int64)
    clipped = 0
    for at in range(0, layout.dimension, CHUNK_WORDS):
        part = update[at : at + CHUNK_WORDS].astype(np.float64)
        finite = np.isfinite(part)
        if not finite.all():
            name = layout.tensor_at(at + int(np.argmin(finite)))
            raise ModelError(
                "NON_FINITE_UPDATE",
                f"the update of {name} holds NaN or infinity",
                "lower local.learning_rate, or look at this tensor's inputs; nothing was sent",
            )
        bounded = np.clip(part, -max_update, max_update)
        clipped += int(np.count_nonzero(bounded != part))
        scaled = bounded * factor
        floor = np.floor(scaled)
        # 53 random bits: the probability to round up is the fraction itself, to the last bit of a float64.
        uniform = (stream.take(len(part)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        integers[at : at + len(part)] = (floor + (uniform < scaled - floor)).astype(np.int64)
    if int(np.abs(integers).max(initial=0)) > lanes.largest:
        raise ValueError("a rounded value left its lane")  # unreachable while scale_bits keeps its promise
    return Quantised(integers, clipped / layout.dimension)


def dequantise(total: Int64Vector, *, scale_bits: int) -> Float64Vector:
    """Exact: the integer sum divided by the public power-of-two scale, float64 [d]."""
    result: Float64Vector = np.ldexp(total.astype(np.float64), -scale_bits)
    return result
