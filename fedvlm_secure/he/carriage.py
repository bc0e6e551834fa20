"""Carriage: which value of the protected vector rides in which lane of which slot of which ciphertext."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedvlm_secure.he.parameters import TAGS, HeParameters
from fedvlm_secure.ring.keystream import CACHE_WORDS, CHUNK_WORDS
from fedvlm_secure.ring.lanes import WORD_BITS
from fedvlm_secure.ring.vector import SCALAR_LIMIT, VectorFormat, check_words
from fedvlm_secure.types import Int64Vector, Words


class WordSource(Protocol):
    """uint64 words that can be had slice by slice: an array, or a file that is too large to be held."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Words: ...


@dataclass(frozen=True)
class Carriage:
    """The bridge between the ring's packed words and the slots of the ciphertexts.

    The values are the d lifted coordinates of `VectorFormat.pack`, then each scalar in limbs of `value_bits`. Check
    words do not travel: they follow from the rest. Ciphertext i carries values [i * M, (i + 1) * M), planar: lane k of
    slot s is value i * M + k * data_slots + s. Unused places carry 0.

    Raises:
        ValueError: the vector's values have another width than the parameters', or its lanes hold fewer nodes.
    """

    parameters: HeParameters
    format: VectorFormat

    def __post_init__(self) -> None:
        lanes = self.format.lanes
        if lanes.value_bits != self.parameters.value_bits or lanes.max_nodes < self.parameters.nodes:
            raise ValueError("the vector's lanes and the encryption parameters are of different runs")

    @property
    def limbs(self) -> int:
        """Values that carry one scalar: of 48 bits, or of a whole word where some are in two's complement."""
        bits = WORD_BITS if self.format.signed else SCALAR_LIMIT.bit_length() - 1
        return -(-bits // self.parameters.value_bits)

    @property
    def values(self) -> int:
        return self.format.dimension + len(self.format.scalars) * self.limbs

    @property
    def ciphertexts(self) -> int:
        return -(-self.values // self.parameters.values)

    @property
    def words(self) -> int:
        """Length of one upload, and of the encrypted sum, in 64-bit words."""
        return self.ciphertexts * self.parameters.ciphertext_words

    @property
    def per_chunk(self) -> int:
        """Ciphertexts of one chunk of the wire (1 MiB): no ciphertext crosses a chunk's border."""
        return CHUNK_WORDS // self.parameters.ciphertext_words

    @property
    def proof_words(self) -> int:
        """Length in 64-bit words of the proof that is published with a sum: its tags and the scalars' limbs."""
        return self.ciphertexts * TAGS + len(self.format.scalars) * self.limbs

    def batches(self) -> Iterator[range]:
        """The ciphertexts' numbers, chunk by chunk."""
        for at in range(0, self.ciphertexts, self.per_chunk):
            yield range(at, min(at + self.per_chunk, self.ciphertexts))

    def split_scalars(self, words: WordSource) -> Int64Vector:
        """One node's scalars in limbs of `value_bits`, lowest first: int64 [len(scalars) * limbs]."""
        width = np.uint64(self.parameters.value_bits)
        scalars = words[self.format.lane_words : self.format.payload_words]
        shifted = scalars[:, None] >> (np.arange(self.limbs, dtype=np.uint64) * width)
        return (shifted & np.uint64((1 << self.parameters.value_bits) - 1)).astype(np.int64).reshape(-1)

    def join_scalars(self, limbs: Int64Vector) -> Words:
        """A sum's scalars, uint64 [len(scalars)], from the sums of their limbs, which may carry into each other."""
        width = np.uint64(self.parameters.value_bits)
        shifted = limbs.astype(np.uint64).reshape(-1, self.limbs) << (np.arange(self.limbs, dtype=np.uint64) * width)
        scalars: Words = shifted.sum(axis=1, dtype=np.uint64)
        return scalars

    def read(self, words: WordSource, limbs: Int64Vector, batch: range) -> Int64Vector:
        """The values of a batch, int64 [len(batch), M], of plain packed words (one node's, or a sum) and its limbs."""
        size = self.parameters.values
        start, stop = batch.start * size, batch.stop * size
        values = np.zeros(stop - start, dtype=np.int64)
        bits = self.format.lanes.lane_bits
        mask = np.uint64((1 << bits) - 1)
        for lane, part, at in self._coordinates(start, min(stop, self.format.dimension)):
            lifted = (words[part] >> np.uint64(lane * bits)) & mask
            values[at - start : at - start + len(lifted)] = lifted
        first = max(start, self.format.dimension)
        if first < min(stop, self.values):
            shown = limbs[first - self.format.dimension : stop - self.format.dimension]
            values[first - start : first - start + len(shown)] = shown
        return values.reshape(len(batch), size)

    def write(self, words: Words, limbs: Int64Vector, batch: range, values: Int64Vector) -> None:
        """Inverse of `read` for a sum: adds to `words`, which begin as zeros, and fills `limbs`."""
        size = self.parameters.values
        start, stop = batch.start * size, batch.stop * size
        flat = values.reshape(-1).astype(np.uint64)
        bits = self.format.lanes.lane_bits
        for lane, part, at in self._coordinates(start, min(stop, self.format.dimension)):
            target = words[part]
            target += flat[at - start : at - start + len(target)] << np.uint64(lane * bits)
        first = max(start, self.format.dimension)
        if first < min(stop, self.values):
            target_limbs = limbs[first - self.format.dimension : stop - self.format.dimension]
            target_limbs[:] = flat[first - start : first - start + len(target_limbs)].astype(np.int64)

    def close(self, words: Words, limbs: Int64Vector) -> None:
        """Set scalars and check words of a sum whose values are all written."""
        lanes, payload = self.format.lane_words, self.format.payload_words
        words[lanes:payload] = self.join_scalars(limbs)
        words[payload:] = check_words(words[:payload])

    def follows(self, words: Words, limbs: Int64Vector) -> bool:
        """Whether a sum holds nothing but its values and what `close` sets: no other bit, no other scalar."""
        lanes, payload = self.format.lane_words, self.format.payload_words
        return (
            not any(np.any(words[at : at + len(used)] & ~used) for at, used in self._used_bits())
            and np.array_equal(words[lanes:payload], self.join_scalars(limbs))
            and np.array_equal(words[payload:], check_words(words[:payload]))
        )

    def _used_bits(self) -> Iterator[tuple[int, Words]]:
        """The bits of the lane words that carry coordinates, uint64, in blocks, each with its first word."""
        width, lanes = self.format.lane_words, self.format.lanes
        mask = (1 << lanes.lane_bits) - 1
        for at in range(0, width, CACHE_WORDS):
            used: Words = np.zeros(min(CACHE_WORDS, width - at), dtype=np.uint64)
            for lane in range(lanes.per_word):
                carried = max(0, self.format.dimension - lane * width - at)
                used[:carried] |= np.uint64(mask << (lane * lanes.lane_bits))
            yield at, used

    def unused(self, batch: range) -> int:
        """Values of a batch behind the last one, which carry 0."""
        return max(0, batch.stop * self.parameters.values - self.values)

    def _coordinates(self, start: int, stop: int) -> Iterator[tuple[int, slice, int]]:
        """(lane, slice of words, first coordinate) pieces of the coordinates [start, stop)."""
        width = self.format.lane_words
        while start < stop:
            lane, at = divmod(start, width)
            count = min(stop - start, width - at)
            yield lane, slice(at, at + count), start
            start += count
