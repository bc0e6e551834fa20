"""VectorFormat: the one protected vector of 64-bit words: packed lanes, whole-word scalars, check words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fedvlm_secure.canonical import digest
from fedvlm_secure.ring.keystream import CACHE_WORDS, CHUNK_WORDS, Keystream
from fedvlm_secure.ring.lanes import WORD_BITS, LaneFormat
from fedvlm_secure.types import Int64Vector, Secret, Words

SCALAR_LIMIT = 1 << 48
"""A scalar is below this at each node, so that no cohort's sum reaches 2^63."""


@cache
def _check_coefficients() -> Words:
    """Public odd coefficients, uint64 [CHUNK_WORDS]: odd, so that one wrong word always changes the check word."""
    coefficients = Keystream(Secret(bytes(digest("check-coefficients")))).take(CHUNK_WORDS) | np.uint64(1)
    coefficients.setflags(write=False)
    return coefficients


def check_words(payload: Words) -> Words:
    """One linear form modulo 2^64 of each chunk: uint64 [ceil(len / CHUNK_WORDS)].

    Linear, so the sum of the nodes' check words is the check word of the sum. It detects faults (memory, a keystream
    bug), not malice.
    """
    chunks = range(0, len(payload), CHUNK_WORDS)
    sums = np.empty(len(chunks), dtype=np.uint64)
    for index, at in enumerate(chunks):
        part = payload[at : at + CHUNK_WORDS]
        sums[index] = np.dot(part, _check_coefficients()[: len(part)])  # uint64: numpy's own loop, modulo 2^64
    return sums


@dataclass(frozen=True)
class VectorFormat:
    """What the words of one upload mean.

    Planar: lane k of word i carries coordinate k * lane_words + i, so that packing is one pass per lane. Behind the
    lanes stands one whole word per scalar, then one check word per chunk of what precedes.

    Args:
        dimension: d, coordinates of the update.
        scalars: names of the per-node numbers that ride along (counts and sums; noised ones under DP).
        signed: those of them that may be negative, as a noised count may; they ride in two's complement.
    """

    dimension: int
    lanes: LaneFormat
    scalars: tuple[str, ...] = ()
    signed: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.dimension < 1 or len(set(self.scalars)) != len(self.scalars) or not self.signed <= set(self.scalars):
            raise ValueError("a vector has at least one coordinate, names each scalar once, and signs no other")

    @property
    def lane_words(self) -> int:
        return self.lanes.words(self.dimension)

    @property
    def payload_words(self) -> int:
        return self.lane_words + len(self.scalars)

    @property
    def check_words(self) -> int:
        return -(-self.payload_words // CHUNK_WORDS)

    @property
    def words(self) -> int:
        """Length of the whole vector in 64-bit words."""
        return self.payload_words + self.check_words

    def pack(self, integers: Int64Vector, scalars: Mapping[str, int]) -> Words:
        """Pack one node's integers and scalars: uint64 [words], plain (not yet masked).

        By wrap-around addition, never `|`: under added noise a value may be negative, and its borrow into the next
        lane must cancel in the sum.

        Raises:
            ValueError: wrong shape, a scalar missing, unknown, >= 2^48 in magnitude, or negative and not signed.
        """
        if integers.dtype != np.int64 or integers.shape != (self.dimension,):
            raise ValueError(f"integers must be int64 [{self.dimension}]")
        words: Words = np.zeros(self.words, dtype=np.uint64)
        for at in range(0, self.lane_words, CACHE_WORDS):
            packed = words[at : min(at + CACHE_WORDS, self.lane_words)]
            for lane in range(self.lanes.per_word):
                part = integers[lane * self.lane_words : (lane + 1) * self.lane_words][at : at + len(packed)]
                lifted = (part + self.lanes.offset).view(np.uint64) << np.uint64(lane * self.lanes.lane_bits)
                packed[: len(part)] += lifted
        words[self.lane_words : self.payload_words] = self.scalar_words(scalars)
        words[self.payload_words :] = check_words(words[: self.payload_words])
        return words

    def scalar_words(self, scalars: Mapping[str, int]) -> Words:
        """The words behind the lanes: uint64 [scalars]. Errors as for `pack`."""
        if set(scalars) != set(self.scalars):
            raise ValueError("scalars differ from the vector's format")
        words: Words = np.empty(len(self.scalars), dtype=np.uint64)
        for index, name in enumerate(self.scalars):
            least = 1 - SCALAR_LIMIT if name in self.signed else 0
            if not least <= scalars[name] < SCALAR_LIMIT:
                raise ValueError(f"scalar {name} outside [{least}, 2^48)")
            words[index] = scalars[name] % (1 << WORD_BITS)
        return words

    def unpack_sum(self, total: Words, contributors: int) -> tuple[Int64Vector, dict[str, int]]:
        """The integer sum, int64 [d], and each scalar's total, of `contributors` nodes' added vectors.

        Raises:
            ValueError: as for `sum_scalars`.
        """
        scalars = self.sum_scalars(total, contributors)
        integers = np.empty(self.dimension, dtype=np.int64)
        for at in range(0, self.dimension, CACHE_WORDS):
            part = integers[at : at + CACHE_WORDS]
            part[:] = self.sum_block(total, contributors, at, len(part))
        return integers, scalars

    def sum_scalars(self, total: Words, contributors: int) -> dict[str, int]:
        """Check a sum, uint64 [words], of `contributors` nodes' vectors, and read each scalar's total.

        Raises:
            ValueError: wrong shape, more contributors than the lanes hold, or a check word that does not fit (a fault).
        """
        if total.dtype != np.uint64 or total.shape != (self.words,):
            raise ValueError(f"sum must be uint64 [{self.words}]")
        if not 1 <= contributors <= self.lanes.max_nodes:
            raise ValueError(f"{contributors} contributors do not fit the lanes")
        faulty = self.faulty_chunks(total)
        if faulty:
            raise ValueError(f"check word of chunk {faulty[0]} does not fit the sum")
        values = [int(value) for value in total[self.lane_words : self.payload_words]]
        return {
            name: value - (1 << WORD_BITS if name in self.signed and value >> (WORD_BITS - 1) else 0)
            for name, value in zip(self.scalars, values, strict=True)
        }

    def sum_block(self, total: Words, contributors: int, start: int, count: int) -> Int64Vector:
        """Coordinates [start, start + count) of a sum that `sum_scalars` has checked: int64 [count]."""
        block = np.empty(count, dtype=np.int64)
        lane_sum, done = block.view(np.uint64), 0
        while done < count:
            lane, word = divmod(start + done, self.lane_words)
            packed = total[word : min(word + count - done, self.lane_words)]
            part = lane_sum[done : done + len(packed)]
            np.right_shift(packed, np.uint64(lane * self.lanes.lane_bits), out=part)
            done += len(packed)
        np.bitwise_and(lane_sum, np.uint64((1 << self.lanes.lane_bits) - 1), out=lane_sum)
        return np.subtract(block, contributors * self.lanes.offset, out=block)

    def faulty_chunks(self, total: Words) -> Sequence[int]:
        """Chunks whose check word differs from the linear form of their words."""
        expected = check_words(total[: self.payload_words])
        return [int(index) for index in np.flatnonzero(expected != total[self.payload_words :])]
