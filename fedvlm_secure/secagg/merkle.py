"""SHA-256 hash trees: over the 1 MiB chunks of a vector, and over what one dealer deals to each holder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.types import Digest

CHUNK_BYTES = CHUNK_WORDS * WORD_BYTES
_LEAF = b"\x00"
_NODE = b"\x01"


def leaf_hash(content: bytes | memoryview) -> Digest:
    """Hash of one leaf. The prefix keeps a leaf from passing as an inner node (RFC 6962 section 2.1)."""
    hasher = hashlib.sha256(_LEAF)
    hasher.update(content)
    return Digest(hasher.digest())


def _parent(left: bytes, right: bytes) -> Digest:
    return Digest(hashlib.sha256(_NODE + left + right).digest())


def _next_level(level: Sequence[Digest]) -> list[Digest]:
    """Pairs are joined; an odd last one moves up unchanged."""
    joined = [_parent(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return joined + ([level[-1]] if len(level) % 2 else [])


@lru_cache(maxsize=256)
def _levels_below_root(leaves: tuple[Digest, ...]) -> tuple[Sequence[Digest], ...]:
    """Leaves first. Kept, since each holder asks for its path in each dealer's tree."""
    levels: list[Sequence[Digest]] = [leaves]
    while len(levels[-1]) > 1:
        levels.append(_next_level(levels[-1]))
    return tuple(levels[:-1])


def tree_root(leaves: Sequence[Digest]) -> Digest:
    """Root over leaf hashes, at least one."""
    if not leaves:
        raise ValueError("a hash tree has at least one leaf")
    level = list(leaves)
    while len(level) > 1:
        level = _next_level(level)
    return level[0]


def tree_path(leaves: Sequence[Digest], index: int) -> tuple[Digest, ...]:
    """The siblings that lead from leaf `index` to the root, bottom up."""
    path = []
    for level in _levels_below_root(tuple(leaves)):
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        index //= 2
    return tuple(path)


def path_holds(leaf: Digest, index: int, count: int, path: Sequence[Digest], root: Digest) -> bool:
    """Whether `leaf` stands at `index` of the `count` leaves under `root`."""
    if not 0 <= index < count:
        return False
    current, remaining = leaf, list(path)
    while count > 1:
        if index ^ 1 < count:
            if not remaining:
                return False
            sibling = remaining.pop(0)
            current = _parent(sibling, current) if index % 2 else _parent(current, sibling)
        index, count = index // 2, (count + 1) // 2
    return not remaining and current == root


def chunks_root(chunks: Iterable[bytes | memoryview]) -> Digest:
    """Root over a vector's chunks, as they stream by."""
    return tree_root([leaf_hash(chunk) for chunk in chunks])


def chunk_root(content: bytes | memoryview) -> Digest:
    """Root over a content's 1 MiB chunks (the last may be shorter; empty content is one empty chunk)."""
    view = memoryview(content)
    return chunks_root(view[at : at + CHUNK_BYTES] for at in range(0, max(1, len(view)), CHUNK_BYTES))
