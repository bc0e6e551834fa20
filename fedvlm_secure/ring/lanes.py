"""LaneFormat: how many values share one 64-bit word, and how many nodes their sum has room for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedvlm_secure.errors import PolicyError

WORD_BITS = 64
WORD_BYTES = 8


@dataclass(frozen=True)
class LaneFormat:
    """`per_word` lanes of `lane_bits`, each carrying one `value_bits` value per node.

    A node's integer v in [-2^(value_bits-1), 2^(value_bits-1)) is sent as v + offset >= 0, so that n of them sum to
    at most n * (2^value_bits - 1), which must stay below 2^lane_bits.
    """

    per_word: int
    lane_bits: int
    value_bits: int

    def __post_init__(self) -> None:
        if self.per_word * self.lane_bits > WORD_BITS or not 2 <= self.value_bits < self.lane_bits:
            raise ValueError("lanes do not fit a word, or values do not fit a lane")

    @property
    def offset(self) -> int:
        """Added to each value before packing; |S| * offset is subtracted from each lane of the sum."""
        return 1 << (self.value_bits - 1)

    @property
    def largest(self) -> int:
        """The largest magnitude a clipped value may take: symmetric, so one step inside the two's complement range."""
        return self.offset - 1

    @property
    def max_nodes(self) -> int:
        """The largest cohort whose sum cannot leave its lane."""
        return ((1 << self.lane_bits) - 1) // ((1 << self.value_bits) - 1)

    def words(self, dimension: int) -> int:
        """64-bit words that carry `dimension` values."""
        return -(-dimension // self.per_word)

    def scale_bits(self, max_update: float) -> int:
        """log2 of the largest power-of-two scale for which |x| <= max_update still fits a lane, rounding included.

        Source: document "protocol", section Ring: round(x * 2^scale_bits) has magnitude <= `largest`, rounding up too.
        """
        if not (math.isfinite(max_update) and max_update > 0):
            raise ValueError(f"max_update must be positive and finite, got {max_update}")
        bits = math.floor(math.log2((self.largest - 1) / max_update))
        while math.ldexp(max_update, bits) > self.largest - 1:  # log2 may round up at an exact power
            bits -= 1
        return bits


THREE_LANES = LaneFormat(per_word=3, lane_bits=21, value_bits=16)
TWO_LANES = LaneFormat(per_word=2, lane_bits=32, value_bits=22)
FOUR_LANES = LaneFormat(per_word=4, lane_bits=16, value_bits=11)
_BY_COUNT = {2: TWO_LANES, 3: THREE_LANES, 4: FOUR_LANES}


def lane_format(lanes: Literal["auto"] | int, nodes: int) -> LaneFormat:
    """The format a policy's `protection.lanes` means for a cohort of `nodes`.

    `auto` is three lanes up to 32 nodes and two beyond.

    Raises:
        PolicyError: RING_HEADROOM, the cohort's sum could leave its lane; the hint names the format that fits.
    """
    if lanes == "auto":
        chosen = THREE_LANES if nodes <= THREE_LANES.max_nodes else TWO_LANES
    elif lanes in _BY_COUNT:
        chosen = _BY_COUNT[lanes]
    else:
        raise ValueError(f"lanes are auto, 2, 3 or 4, got {lanes!r}")
    if nodes > chosen.max_nodes:
        fitting = [count for count, fmt in _BY_COUNT.items() if nodes <= fmt.max_nodes]
        raise PolicyError(
            "RING_HEADROOM",
            f"protection.lanes: {lanes} has room for {chosen.max_nodes} nodes, the cohort has {nodes}",
            f"use protection.lanes: {max(fitting)}" if fitting else f"at most {TWO_LANES.max_nodes} nodes fit",
        )
    return chosen
