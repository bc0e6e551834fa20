"""UpdateEncoder: a float32 update as the chunks of its packed vector, made one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from fedvlm_secure.ring.keystream import CACHE_WORDS, CHUNK_WORDS
from fedvlm_secure.ring.vector import VectorFormat, check_words
from fedvlm_secure.types import Int64Vector, Words


class IntegerSpan(Protocol):
    """`ring.quantise.QuantisedSpan`, `ring.ready.ReadySpan`."""

    def next(self, most: int) -> Int64Vector:
        """The next integers, at most `most`, none past the span. They may be changed, and live until the next call."""
        ...


class IntegerSource(Protocol):
    """`ring.quantise.Quantiser`, `ring.ready.ReadyIntegers`."""

    def span(self, start: int, stop: int) -> IntegerSpan:
        """A reader of coordinates `start` to `stop`."""
        ...


class UpdateEncoder:
    """Reads integers (quantising them on the way where they are floats) and packs them, with a chunk of memory.

    The chunks joined are, bit for bit, `VectorFormat.pack` of all of the source's integers.

    Args:
        source: the update with its weight and its roundings, or integers that are ready.
        vector: what the words mean.
        scalars: the per-node numbers, by the vector's names.

    Raises:
        ValueError: a scalar that the vector refuses.
    """

    def __init__(self, source: IntegerSource, vector: VectorFormat, scalars: Mapping[str, int]) -> None:
        self._source, self._vector = source, vector
        self._scalars = vector.scalar_words(scalars)

    def chunks(self) -> Iterator[Words]:
        """The vector's words: uint64 [CHUNK_WORDS], the last shorter. Each may be written to, and lives until the next.

        Raises:
            ModelError: NON_FINITE_UPDATE, while the chunk that holds the value is made.
        """
        vector = self._vector
        spans = [
            self._source.span(min(start, vector.dimension), min(start + vector.lane_words, vector.dimension))
            for start in range(0, vector.lanes.per_word * vector.lane_words, vector.lane_words)
        ]
        checks: list[Words] = []
        buffer: Words = np.empty(CHUNK_WORDS, dtype=np.uint64)
        whole = vector.lane_words - vector.lane_words % CHUNK_WORDS
        for _ in range(0, whole, CHUNK_WORDS):
            self._pack(spans, buffer)
            checks.append(check_words(buffer))
            yield buffer
        rest: Words = np.empty(vector.words - whole, dtype=np.uint64)
        lanes = vector.lane_words - whole
        payload = vector.payload_words - whole
        self._pack(spans, rest[:lanes])
        rest[lanes:payload] = self._scalars
        checks.append(check_words(rest[:payload]))
        rest[payload:] = np.concatenate(checks)
        for at in range(0, len(rest), CHUNK_WORDS):
            yield rest[at : at + CHUNK_WORDS]

    def _pack(self, spans: Sequence[IntegerSpan], words: Words) -> None:
        lanes = self._vector.lanes
        for at in range(0, len(words), CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            for lane, span in enumerate(spans):
                integers = span.next(len(part))
                integers += lanes.offset
                lifted = integers.view(np.uint64)
                if lane == 0:  # the longest lane: it fills every word
                    part[:] = lifted
                else:
                    np.left_shift(lifted, np.uint64(lane * lanes.lane_bits), out=lifted)
                    part[: len(lifted)] += lifted
