"""A state where it is stored or as it came with a message: read block by block, written chunk by chunk."""

from __future__ import annotations

from fedvlm_secure.fl.state import State, StoredState
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.rounds.vectors import Drafted, StoredVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES


def state_in(vector: StoredVector | None) -> StoredState:
    """The state that a vector holds. It stays readable as long as the vector does.

    Raises:
        ValueError: not the encoding of a state, or nothing.
    """
    if vector is None:
        raise ValueError("no state")
    return StoredState.read(lambda: _Spans(vector).read, vector.size_bytes)


def enter_state(journal: Journal, state: State) -> bytes | Drafted:
    """What a commit takes as a state's value: all of a small one, else a draft.

    Raises:
        StorageError: nothing is kept.
    """
    if state.form.size_bytes <= CHUNK_BYTES:
        return state.to_bytes()
    draft = journal.draft()
    try:
        for chunk in state.encoded(CHUNK_BYTES):
            draft.append(chunk)
        return draft.finish()
    except BaseException:
        draft.drop()
        raise


class _Spans:
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
                    raise ValueError("the state is erased")
                self._index, self._chunk = index, chunk
            piece = memoryview(self._chunk)[within : within + end - start]
            if not piece:
                raise ValueError("the state's chunks are shorter than its size")
            found += piece
            start += len(piece)
        return bytes(found)
