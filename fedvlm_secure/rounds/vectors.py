"""Vectors too large to hold twice: beside the journal, or attached to a message. Written and read in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, chunk_root, tree_root
from fedvlm_secure.types import Digest, Words


@dataclass(frozen=True)
class Drafted:
    """A vector that is durable and belongs to no key yet: a commit enters it, like a value.

    Args:
        name: where the journal keeps it.
        leaves: leaf hash of each 1 MiB chunk.
    """

    name: str
    size_bytes: int
    leaves: tuple[Digest, ...]

    @property
    def root(self) -> Digest:
        """Tree root over its chunks."""
        return tree_root(self.leaves)


class Draft(Protocol):
    """A vector being written. What is never entered by a commit is erased, at the latest by the next start."""

    def append(self, chunk: bytes | memoryview) -> None:
        """Write one chunk: 1 MiB, or less if it is the last.

        Raises:
            StorageError: it could not be written; the draft is of no use any more.
        """
        ...

    def finish(self) -> Drafted:
        """Make it durable.

        Raises:
            StorageError: it is not.
        """
        ...

    def drop(self) -> None:
        """Erase it. Dropping a finished or dropped one that was not entered is allowed."""
        ...


class StoredVector(Protocol):
    """A vector that a journal holds, or that came with a message. It stays the same one: once erased, it is gone."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def root(self) -> Digest:
        """Tree root over its chunks."""
        ...

    def chunk(self, index: int) -> bytes | None:
        """Chunk `index` (from 0), or None past its end or once it is erased.

        Raises:
            StorageError: STATE_CORRUPT, it is not what was written.
        """
        ...


@dataclass(frozen=True)
class HeldVector:
    """A `StoredVector` in memory."""

    content: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def root(self) -> Digest:
        return chunk_root(self.content)

    def chunk(self, index: int) -> bytes | None:
        return self.content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] or None


def chunk_count(vector: StoredVector) -> int:
    """Chunks of a vector, the last of which may be shorter."""
    return -(-vector.size_bytes // CHUNK_BYTES)


def chunks_of(vector: StoredVector) -> Iterator[bytes]:
    """Every chunk in order; one that is erased meanwhile comes as an empty one."""
    return (vector.chunk(index) or b"" for index in range(chunk_count(vector)))


def cut(content: bytes | memoryview) -> Iterator[memoryview]:
    """The chunks of a content in memory, without a copy; empty content is one empty chunk."""
    view = memoryview(content).cast("B")
    return (view[at : at + CHUNK_BYTES] for at in range(0, max(1, len(view)), CHUNK_BYTES))


def joined(*parts: Words) -> Iterator[Words]:
    """The chunks, uint64 [CHUNK_WORDS] and the last shorter, of arrays that follow each other."""
    starts = [sum(len(part) for part in parts[:index]) for index in range(len(parts))]
    for at in range(0, sum(len(part) for part in parts), CHUNK_WORDS):
        yield np.concatenate(
            [part[max(0, at - s) : max(0, at + CHUNK_WORDS - s)] for part, s in zip(parts, starts, strict=True)]
        )


def as_bytes(words: Words) -> memoryview:
    """uint64 words as the little-endian bytes of the wire, without a copy where the machine is little-endian."""
    return words.astype("<u8", copy=False).data.cast("B")


def as_words(vector: StoredVector) -> Words:
    """A whole vector of words: uint64 [size_bytes / 8], the one copy of it in memory.

    Raises:
        ValueError: its length is no multiple of 8 bytes, or it is erased.
    """
    if vector.size_bytes % WORD_BYTES:
        raise ValueError("a vector of words has a multiple of 8 bytes")
    words: Words = np.empty(vector.size_bytes // WORD_BYTES, dtype=np.uint64)
    for index, chunk in enumerate(chunks_of(vector)):
        words[index * CHUNK_WORDS : (index + 1) * CHUNK_WORDS] = np.frombuffer(chunk, dtype="<u8")
    return words


class Spans:
    """Any bytes of a vector; the chunk read last is kept, so that reading on from a span reads no chunk twice."""

    def __init__(self, vector: StoredVector) -> None:
        self._vector = vector
        self._index, self._chunk = -1, b""

    def read(self, start: int, size: int) -> bytes:
        """Bytes [start, start + size), as far as the vector goes.

        Raises:
            ValueError: it is erased.
        """
        found, end = bytearray(), min(start + size, self._vector.size_bytes)
        while start < end:
            index, within = divmod(start, CHUNK_BYTES)
            if index != self._index:
                chunk = self._vector.chunk(index)
                if chunk is None:
                    raise ValueError("the vector is erased")
                self._index, self._chunk = index, chunk
            piece = memoryview(self._chunk)[within : within + end - start]
            if not piece:
                raise ValueError("the vector's chunks are shorter than its size")
            found += piece
            start += len(piece)
        return bytes(found)


class WordSlices:
    """A stored vector of words that is read in slices, as an array would be."""

    def __init__(self, vector: StoredVector) -> None:
        self._words, self._spans = vector.size_bytes // WORD_BYTES, Spans(vector)

    def __len__(self) -> int:
        return self._words

    def __getitem__(self, part: slice) -> Words:
        """uint64 [stop - start], read-only, as far as the vector goes.

        Raises:
            ValueError: the vector is erased.
        """
        start, stop, _ = part.indices(self._words)
        content = self._spans.read(start * WORD_BYTES, max(0, stop - start) * WORD_BYTES)
        return np.frombuffer(content, dtype="<u8").astype(np.uint64, copy=False)
