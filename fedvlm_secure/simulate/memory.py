"""Storage and entropy of a simulated party: in memory, copyable, seeded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO

from fedvlm_secure.rounds.vectors import Drafted, HeldVector
from fedvlm_secure.secagg.merkle import chunk_root, leaf_hash
from fedvlm_secure.types import Digest, NodeId


class ShakeEntropy:
    """A SHAKE-256 stream from a seed and a label: simulation and tests only, never for a real key or mask."""

    def __init__(self, seed: int, label: str) -> None:
        self._prefix = f"fedvlm/simulate/{seed}/{label}/".encode()
        self._drawn = 0

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        self._drawn += 1
        return hashlib.shake_256(self._prefix + self._drawn.to_bytes(8, "big")).digest(count)


class MemoryJournal:
    """A journal that forgets with the process. `commits` counts the transactions."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.commits = 0
        self._drafts: dict[str, bytes] = {}
        self._begun = 0

    def get(self, key: str) -> bytes | None:
        return self.content.get(key)

    def keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.content if key.startswith(prefix))

    def commit(self, puts: Mapping[str, bytes | Drafted], deletes: Sequence[str] = ()) -> None:
        kept = {key: value for key, value in self.content.items() if key not in deletes}
        entered = {key: self._drafts.pop(v.name) if isinstance(v, Drafted) else v for key, v in puts.items()}
        self.content = {**kept, **entered}
        self.commits += 1

    def draft(self) -> MemoryDraft:
        self._begun += 1
        return MemoryDraft(str(self._begun), self._drafts)

    def drafted(self, drafted: Drafted) -> HeldVector:
        return HeldVector(self._drafts[drafted.name])

    def vector(self, key: str) -> HeldVector | None:
        held = self.content.get(key)
        return None if held is None else HeldVector(held)


class MemoryDraft:
    """A vector on its way into a `MemoryJournal`."""

    def __init__(self, name: str, drafts: dict[str, bytes]) -> None:
        self._name, self._drafts = name, drafts
        self._content = BytesIO()
        self._leaves: list[Digest] = []

    def append(self, chunk: bytes | memoryview) -> None:
        self._content.write(chunk)
        self._leaves.append(leaf_hash(chunk))

    def finish(self) -> Drafted:
        self._drafts[self._name] = self._content.getvalue()  # shares the buffer: no second copy
        return Drafted(self._name, len(self._drafts[self._name]), tuple(self._leaves))

    def drop(self) -> None:
        self._drafts.pop(self._name, None)


class MemorySpool:
    """Masked uploads in memory."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[Digest, NodeId], list[bytes]] = {}

    def held_chunks(self, ctx: Digest, node: NodeId) -> int:
        return len(self._chunks.get((ctx, node), []))

    def append(self, ctx: Digest, node: NodeId, chunk: bytes) -> None:
        self._chunks.setdefault((ctx, node), []).append(chunk)

    def chunks(self, ctx: Digest, node: NodeId) -> Iterator[bytes]:
        return iter(tuple(self._chunks.get((ctx, node), [])))

    def hashed(self, ctx: Digest, node: NodeId) -> tuple[int, Sequence[Digest]]:
        chunks = self._chunks.get((ctx, node), [])
        return sum(len(chunk) for chunk in chunks), [leaf_hash(chunk) for chunk in chunks]

    def discard(self, ctx: Digest, node: NodeId | None = None) -> None:
        for key in [key for key in self._chunks if key[0] == ctx and node in (None, key[1])]:
            del self._chunks[key]


class MemoryBlobs:
    """Attachments in memory."""

    def __init__(self) -> None:
        self._content: dict[Digest, bytes] = {}

    def put(self, chunks: Iterable[bytes | memoryview]) -> Digest:
        content = b"".join(chunks)
        root = chunk_root(content)
        self._content[root] = content
        return root

    def get(self, root: Digest) -> bytes | None:
        return self._content.get(root)

    def keep_only(self, roots: Sequence[Digest]) -> None:
        self._content = {root: content for root, content in self._content.items() if root in roots}
