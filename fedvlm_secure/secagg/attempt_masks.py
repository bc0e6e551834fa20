"""AttemptMasks: the signed keystreams of one upload, made chunk by chunk or expanded while training runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedvlm_secure.ring.keystream import CHUNK_WORDS, KeystreamSum
from fedvlm_secure.types import Digest, Secret, Words


class MaskSource(Protocol):
    """Gives the words of a mask in order, once."""

    def add_to(self, words: Words) -> None:
        """Add the next `len(words)` words of the mask to `words`, in place, modulo 2^64."""
        ...


@dataclass(frozen=True)
class AttemptMasks:
    """G(b_u) + sum_{v>u} G(p_uv) - sum_{v<u} G(p_uv) of one node in one attempt.

    All seeds follow from the attempt's context, which the plan fixes, so that the mask can be expanded before there is
    an update to hide. It is worth as much as the seeds: it stays in memory and goes with the attempt.

    Args:
        words: length of the vector.
        added, subtracted: the seeds.
    """

    ctx: Digest
    words: int
    added: Sequence[Secret]
    subtracted: Sequence[Secret]

    def stream(self) -> MaskSource:
        """The mask, expanded as it is asked for."""
        return KeystreamSum(self.added, self.subtracted)

    def expand(self, *, pool: Executor | None = None, parts: int = 1) -> ExpandedMask:
        """The whole mask at once: 8 bytes for each word, and no other memory that grows with it.

        Args:
            pool: where `parts` parts of it are made beside each other; None: here, one after the other.
        """
        borders = range(0, self.words, CHUNK_WORDS)
        chunks: list[Words] = [np.zeros(min(CHUNK_WORDS, self.words - at), dtype=np.uint64) for at in borders]
        each = -(-len(chunks) // parts)

        def work(first: int) -> None:
            stream = KeystreamSum(self.added, self.subtracted, start=first * CHUNK_WORDS)
            for chunk in chunks[first : first + each]:
                stream.add_to(chunk)

        starts = range(0, len(chunks), each)
        for done in [] if pool is None else [pool.submit(work, first) for first in starts]:
            done.result()
        for first in starts if pool is None else ():
            work(first)
        return ExpandedMask(self.ctx, deque(chunks))


@dataclass
class ExpandedMask:
    """One attempt's whole mask in chunks; given out once, from the first on, and given up chunk by chunk."""

    ctx: Digest
    chunks: deque[Words]

    def add_to(self, words: Words) -> None:
        """See `MaskSource`: a single addition. `words` is the vector's next chunk.

        Raises:
            ValueError: another length than the chunk's, or no chunk is left (no word may hide two values).
        """
        if not self.chunks or len(self.chunks[0]) != len(words):
            raise ValueError("the mask is used up, or this is no whole chunk of its vector")
        np.add(words, self.chunks.popleft(), out=words)
