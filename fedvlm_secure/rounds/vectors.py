"""Vectors beside the journal: written ahead in chunks, entered by a commit, read in chunks, erased with their key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fedvlm_secure.secagg.merkle import CHUNK_BYTES, tree_root
from fedvlm_secure.types import Digest


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
    """A vector that a journal holds. It stays the same one: once its key is erased, it is gone."""

    @property
    def size_bytes(self) -> int: ...

    def chunk(self, index: int) -> bytes | None:
        """Chunk `index` (from 0), or None past its end or once it is erased.

        Raises:
            StorageError: STATE_CORRUPT, it is not what was committed.
        """
        ...


@dataclass(frozen=True)
class HeldVector:
    """A `StoredVector` in memory."""

    content: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def chunk(self, index: int) -> bytes | None:
        return self.content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] or None


def chunk_count(vector: StoredVector) -> int:
    """Chunks of a vector, the last of which may be shorter."""
    return -(-vector.size_bytes // CHUNK_BYTES)
