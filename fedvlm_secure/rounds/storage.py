"""What the machines need of durable storage. Services bring SQLite and files, the simulator memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from fedvlm_secure.rounds.vectors import Draft, Drafted, StoredVector
from fedvlm_secure.types import Digest, NodeId


class Journal(Protocol):
    """A small key-value journal. A commit is all or nothing and durable when it returns."""

    def get(self, key: str) -> bytes | None:
        """The value last committed under `key`."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """Committed keys that start with `prefix`, sorted."""
        ...

    def commit(self, puts: Mapping[str, bytes | Drafted], deletes: Sequence[str] = ()) -> None:
        """Write and delete in one transaction. A drafted vector becomes the value of its key.

        Raises:
            StorageError: nothing was written.
        """
        ...

    def draft(self) -> Draft:
        """Begin a vector that a later commit enters."""
        ...

    def drafted(self, drafted: Drafted) -> StoredVector:
        """A finished draft that no commit has entered yet, to be read chunk by chunk."""
        ...

    def vector(self, key: str) -> StoredVector | None:
        """The value last committed under `key`, to be read chunk by chunk."""
        ...


class Spool(Protocol):
    """Masked uploads on disk, chunk by chunk, by context and node."""

    def held_chunks(self, ctx: Digest, node: NodeId) -> int:
        """Whole chunks already held: where an upload resumes."""
        ...

    def append(self, ctx: Digest, node: NodeId, chunk: bytes) -> None:
        """Append one chunk."""
        ...

    def chunks(self, ctx: Digest, node: NodeId) -> Iterator[bytes]:
        """The chunks in order."""
        ...

    def hashed(self, ctx: Digest, node: NodeId) -> tuple[int, Sequence[Digest]]:
        """Bytes held, and the leaf hash of each chunk, computed as it came."""
        ...

    def discard(self, ctx: Digest, node: NodeId | None = None) -> None:
        """Forget one upload of a context, or all of them."""
        ...


class Blobs(Protocol):
    """Attachments the aggregator offers: sums and states, by tree root."""

    def put(self, chunks: Iterable[bytes | memoryview]) -> Digest:
        """Store a content, chunk by chunk (1 MiB, the last may be shorter), under the tree root that is returned.

        Raises:
            StorageError: nothing was stored. So it is with whatever `chunks` raises.
        """
        ...

    def keep_only(self, roots: Sequence[Digest]) -> None:
        """Drop every other blob."""
        ...


def draft_chunks(journal: Journal, chunks: Iterable[bytes | memoryview]) -> Drafted:
    """Write a vector's chunks (1 MiB, the last may be shorter) ahead of the commit that enters it.

    Raises:
        StorageError: nothing is kept. So it is with whatever `chunks` raises.
    """
    draft = journal.draft()
    try:
        for chunk in chunks:
            draft.append(chunk)
        return draft.finish()
    except BaseException:
        draft.drop()
        raise
