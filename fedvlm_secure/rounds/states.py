"""A state where it is stored or as it came with a message: read block by block, written chunk by chunk."""

from __future__ import annotations

from fedvlm_secure.fl.state import State, StoredState
from fedvlm_secure.rounds.storage import Journal, draft_chunks
from fedvlm_secure.rounds.vectors import Drafted, Spans, StoredVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES


def state_in(vector: StoredVector | None) -> StoredState:
    """The state that a vector holds. It stays readable as long as the vector does.

    Raises:
        ValueError: not the encoding of a state, or nothing.
    """
    if vector is None:
        raise ValueError("no state")
    return StoredState.read(lambda: Spans(vector).read, vector.size_bytes)


def enter_state(journal: Journal, state: State) -> bytes | Drafted:
    """What a commit takes as a state's value: all of a small one, else a draft.

    Raises:
        StorageError: nothing is kept.
    """
    if state.form.size_bytes <= CHUNK_BYTES:
        return state.to_bytes()
    return draft_chunks(journal, state.encoded(CHUNK_BYTES))
