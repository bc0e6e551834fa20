"""One upload at a time per node, into the spool; a newer one takes over where the older stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import UploadHeader
from fedvlm_secure.store.spool import FileSpool
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire.codec import from_wire
from fedvlm_secure.wire.envelopes import UploadPart

ChunkCheck = Callable[[int, bytes], object]


class Uploads:
    """Hands out turns. Only the node's last turn may write."""

    def __init__(self, spool: FileSpool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._turns: dict[NodeId, Turn] = {}

    def begin(self, header: UploadHeader, expected_bytes: int, check: ChunkCheck | None = None) -> Turn:
        """Start, or take over, the upload of `header.node` under `header.ctx`.

        Args:
            check: of each chunk before it is kept, see `Machine.chunk_check`.
        """
        with self._lock:
            older = self._turns.get(header.node)
            if older is not None:
                older.supersede()
            turn = Turn(self._spool, header, expected_bytes, check)
            self._turns[header.node] = turn
            return turn

    def end(self, turn: Turn) -> None:
        """Forget a turn."""
        turn.supersede()
        with self._lock:
            if self._turns.get(turn.node) is turn:
                del self._turns[turn.node]


class Turn:
    """One stream's right to append chunks.

    Args:
        expected_bytes: size of the vector, >= 0, as the machine knows it.
        check: of each chunk before it is kept; None keeps whatever has the right size.
    """

    def __init__(
        self, spool: FileSpool, header: UploadHeader, expected_bytes: int, check: ChunkCheck | None = None
    ) -> None:
        self.node = header.node
        self._spool, self._ctx, self._expected, self._check = spool, header.ctx, expected_bytes, check
        self.total_chunks = -(-expected_bytes // CHUNK_BYTES)
        self._lock = threading.Lock()
        self._superseded = False
        self.held = spool.held_chunks(self._ctx, self.node)
        if self.held > self.total_chunks:  # what is there belongs to no upload of this size
            spool.discard(self._ctx, self.node)
            self.held = 0

    def supersede(self) -> None:
        """Let nothing more be written. Waits for a chunk that is being written."""
        with self._lock:
            self._superseded = True

    def append(self, raw: bytes) -> None:
        """Check one upload part and append its chunk.

        Raises:
            PeerViolation: MALFORMED_MESSAGE, CHUNK_ORDER, CHUNK_SIZE, BAD_CIPHERTEXT, or UPLOAD_SUPERSEDED.
            StorageError: nothing of the chunk was kept.
        """
        chunk = from_wire(UploadPart, raw).chunk
        if chunk is None or chunk.index != self.held:
            raise PeerViolation("CHUNK_ORDER", f"chunk {self.held} was expected next", "resume the upload")
        size = min(CHUNK_BYTES, self._expected - self.held * CHUNK_BYTES)
        if len(chunk.content) != size:
            raise PeerViolation(
                "CHUNK_SIZE", f"chunk {chunk.index} has {len(chunk.content)} bytes, not {size}", "resume the upload"
            )
        if self._check is not None:
            self._check(chunk.index, chunk.content)
        with self._lock:
            self._check_present()
            self._spool.append(self._ctx, self.node, chunk.content)
            self.held += 1

    def finish(self) -> None:
        """Make the whole upload durable.

        Raises:
            PeerViolation: UPLOAD_SUPERSEDED.
            StorageError: it is not durable.
        """
        with self._lock:
            self._check_present()
            self._spool.finish(self._ctx, self.node)

    def missing(self, parts: Iterator[bytes]) -> Iterator[int]:
        """Append parts until the vector is whole; yields each chunk's index once it is held.

        Raises:
            PeerViolation: UPLOAD_CUT, the stream ended before the vector did; else as `append`.
        """
        while self.held < self.total_chunks:
            raw = next(parts, None)
            if raw is None:
                raise PeerViolation(
                    "UPLOAD_CUT", f"{self.held} of {self.total_chunks} chunks came", "resume the upload"
                )
            self.append(raw)
            yield self.held - 1

    def _check_present(self) -> None:
        if self._superseded:
            raise PeerViolation("UPLOAD_SUPERSEDED", "a newer upload of the same node took over", "leave it the field")
