"""Discrete Gaussian noise for integer vectors from a cryptographic keystream: tables, never floating point."""

from __future__ import annotations

import math

import numpy as np

from fedvlm_secure.dp.gaussian_table import (
    INDEX_BITS,
    LARGEST_VARIANCE,
    UNDECIDED,
    GaussianTable,
    gaussian_table,
)
from fedvlm_secure.dp.smoothing import fold_log_ratio
from fedvlm_secure.dp.streams import stream
from fedvlm_secure.types import Int64Vector, Secret

LARGEST_NOISE_VARIANCE = 1 << 50
CHUNK_VALUES = 1 << 15
"""Index, value and output of one chunk stay in cache."""

_SPREAD = 64
_INDICES_PER_WORD = 64 // INDEX_BITS


class DiscreteGaussian:
    """N_Z(0, variance): P[x] proportional to exp(-x^2 / (2 variance)) on the integers.

    A variance above 2^18 is drawn as a + 64 b with independent discrete Gaussians: b of variance v // 4096 - 8 (again
    split where needed), a of the rest, between 8 and 9 times 64^2. That sum is within the factor exp(+-1e-58) of
    N_Z(0, variance) at every point; the exact figure is part of `total_variation_bound`.

    Args:
        variance: sigma^2 in grid steps squared, an integer from 1 to 2^50.

    Raises:
        ValueError: variance out of range.

    Source: Canonne, Kamath, Steinke 2020 (the distribution); Micciancio, Walter 2017, section 4 (the split);
    docs/decisions/0102-integer-noise-from-tables.md (the bounds).
    """

    def __init__(self, variance: int) -> None:
        if not isinstance(variance, int) or not 1 <= variance <= LARGEST_NOISE_VARIANCE:
            raise ValueError(f"the noise variance is an integer in [1, {LARGEST_NOISE_VARIANCE}], got {variance}")
        self.variance = variance
        self._levels: list[tuple[int, GaussianTable]] = []
        self._split_error = 0.0
        scale, left = 1, variance
        while left > LARGEST_VARIANCE:
            wide = left // _SPREAD**2 - 8
            narrow = left - wide * _SPREAD**2
            self._levels.append((scale, gaussian_table(narrow)))
            # The lattice of the wide part has step 64, so its smoothing is measured in units of 64.
            self._split_error += math.expm1(fold_log_ratio(narrow * wide / left))
            scale, left = scale * _SPREAD, wide
        self._levels.append((scale, gaussian_table(left)))

    @property
    def total_variation_bound(self) -> float:
        """Upper bound on the total-variation distance per value between what `sample` draws and N_Z(0, variance)."""
        return math.nextafter(sum(table.total_variation for _, table in self._levels) + self._split_error, 1.0)

    def sample(self, key: Secret, count: int) -> Int64Vector:
        """Draw `count` independent values.

        Args:
            key: 32 fresh bytes, used for this call only.
            count: how many, >= 0.

        Returns:
            int64 [count]; a shorter draw with the same key is a prefix of a longer one.
        """
        values = np.zeros(count, dtype=np.int64)
        self.add_to(values, key)
        return values

    def add_to(self, values: Int64Vector, key: Secret) -> None:
        """Add one independent draw to each entry of int64 `values` [d], in place."""
        if values.dtype != np.int64 or values.ndim != 1:
            raise ValueError("noise is added to int64 [d]")
        for level, (scale, table) in enumerate(self._levels):
            draws = _Draws(table, key, level)
            for at in range(0, len(values), CHUNK_VALUES):
                part = values[at : at + CHUNK_VALUES]
                draw = draws.take(len(part))
                if scale > 1:
                    draw *= scale
                part += draw


class _Draws:
    """Values of one table from three keystreams: index, continuation, and the rest where 64 bits tie."""

    def __init__(self, table: GaussianTable, key: Secret, level: int) -> None:
        self._table = table
        self._indices = stream(key, "noise-index", level)
        self._continuations = stream(key, "noise-continuation", level)
        self._rests = stream(key, "noise-rest", level)

    def take(self, count: int) -> Int64Vector:
        """int64 [count]. Only the last call on a stream may ask for a count that is not a multiple of four."""
        words = self._indices.take(-(-count // _INDICES_PER_WORD)).astype("<u8", copy=False)
        index = words.view("<u2")[:count]
        values: Int64Vector = self._table.by_index[index].astype(np.int64)
        undecided = np.flatnonzero(values == UNDECIDED)
        if len(undecided):
            values[undecided] = self._decide(index[undecided].astype(np.uint64))
        return values

    def _decide(self, index: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> Int64Vector:
        """Complete each index to 64 bits and search; at equality (2^-50 and rarer) compare all 192 bits."""
        table = self._table
        free = np.uint64(64 - INDEX_BITS)
        heads = (index << free) | (self._continuations.take(len(index)) >> np.uint64(INDEX_BITS))
        position = np.searchsorted(table.heads, heads, side="right")
        values: Int64Vector = position.astype(np.int64) - table.reach
        for at in np.flatnonzero((position > 0) & (table.heads[np.maximum(position, 1) - 1] == heads)):
            high, low = (int(word) for word in self._rests.take(2))
            values[at] = table.exact(int(heads[at]), high << 64 | low)
        return values
