"""The discrete Gaussian's distribution function as integers of 192 bits, and the lookup table made from it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.types import Words

THRESHOLD_BITS = 192
INDEX_BITS = 16
HEAD_BITS = 64
"""A draw is a 16-bit index, then 48 bits where the index is not decisive, then 128 more where even those tie."""

REST_BITS = THRESHOLD_BITS - HEAD_BITS
UNDECIDED = -(1 << 15)
LARGEST_VARIANCE = 1 << 18
"""Up to sigma = 512 values fit int16 and the table stays in the second-level cache."""

_DIGITS = 100
_REACH_SIGMAS = Decimal("13.5")  # a two-sided tail below 2^-128


@dataclass(frozen=True, eq=False)
class GaussianTable:
    """Inverse of the distribution function of N_Z(0, variance), cut to [-reach, reach].

    Attributes:
        thresholds: 2 * reach integers, not decreasing: floor(2^192 * P[X <= x]) for x = -reach .. reach - 1. A uniform
            u of 192 bits gives the value -reach + #{t : t <= u}.
        heads: uint64 [2 * reach], the top 64 bits of each.
        by_index: int16 [2^16], the value where the top 16 bits of u decide it, else UNDECIDED.
        total_variation: bound per value: mass cut off, plus one rounding of at most 2^-192 per threshold.
    """

    variance: int
    reach: int
    thresholds: tuple[int, ...]
    heads: Words
    by_index: NDArray[np.int16]
    total_variation: float

    def exact(self, head: int, rest: int) -> int:
        """The value of a whole draw: `head` its top 64 bits, `rest` its other 128."""
        return bisect_right(self.thresholds, head << REST_BITS | rest) - self.reach


@lru_cache(maxsize=32)
def gaussian_table(variance: int) -> GaussianTable:
    """Build the table with 100 decimal digits; `Decimal.exp` is correctly rounded.

    Args:
        variance: sigma^2 in grid steps squared, 1 .. 2^18.

    Raises:
        ValueError: variance out of range.
    """
    if not 1 <= variance <= LARGEST_VARIANCE:
        raise ValueError(f"a table's variance lies in [1, {LARGEST_VARIANCE}], got {variance}")
    with localcontext(Context(prec=_DIGITS)):
        reach = int((_REACH_SIGMAS * Decimal(variance).sqrt()).to_integral_value(ROUND_CEILING)) + 1
        weights = [_weight(x, variance) for x in range(reach + 1)]
        # sum_{x > reach} w(x) <= w(reach + 1) / (1 - w(reach + 2) / w(reach + 1)): the ratios only fall.
        ratio = (Decimal(-(2 * reach + 3)) / (2 * variance)).exp()
        cut = 2 * _weight(reach + 1, variance) / (1 - ratio)
        kept = weights[0] + 2 * sum(weights[1:])
        unit = Decimal(1 << THRESHOLD_BITS) / kept
        thresholds, below = [], Decimal(0)
        for x in range(-reach, reach):
            below += weights[abs(x)]
            thresholds.append(int((below * unit).to_integral_value(ROUND_FLOOR)))
        bound = cut / kept + Decimal(2 * reach) / (1 << THRESHOLD_BITS)
    heads = np.array([t >> REST_BITS for t in thresholds], dtype=np.uint64)
    table = _lookup(thresholds, reach)
    heads.flags.writeable = table.flags.writeable = False
    return GaussianTable(variance, reach, tuple(thresholds), heads, table, float(np.nextafter(float(bound), 1.0)))


def _weight(x: int, variance: int) -> Decimal:
    return (Decimal(-x * x) / (2 * variance)).exp()


def _lookup(thresholds: list[int], reach: int) -> NDArray[np.int16]:
    """For each 16-bit index the one value its cell holds, or UNDECIDED where a threshold lies inside the cell."""
    shift = THRESHOLD_BITS - INDEX_BITS
    cells = 1 << INDEX_BITS
    first = np.array([bisect_right(thresholds, index << shift) for index in range(cells)])
    last = np.array([bisect_right(thresholds, (index + 1 << shift) - 1) for index in range(cells)])
    table: NDArray[np.int16] = np.where(first == last, first - reach, UNDECIDED).astype(np.int16)
    return table
