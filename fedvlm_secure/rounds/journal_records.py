"""JournalRecords: records and other values in a journal, decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from fedvlm_secure.errors import StorageError
from fedvlm_secure.fl.state import State, StoredState
from fedvlm_secure.rounds.states import enter_state, state_in
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.rounds.vectors import Drafted
from fedvlm_secure.secagg.record import Record, record_bytes, record_from_bytes

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class JournalRecords:
    """Reads and commits records. A decoded record is kept beside the bytes it came from; the journal decides."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._decoded: dict[str, tuple[bytes, Any]] = {}

    def record(self, cls: type[R], key: str) -> R | None:
        """The record last committed under `key`.

        Raises:
            StorageError: STATE_FOREIGN, another version wrote it.
        """
        return self.read(key, lambda raw: _decoded(cls, key, raw))

    def read(self, key: str, decode: Callable[[bytes], T]) -> T | None:
        """What `decode` makes of the value last committed under `key`; None if there is none.

        It is made once for each value, so nobody may change it.
        """
        raw = self.journal.get(key)
        if raw is None:
            self._decoded.pop(key, None)
            return None
        known = self._decoded.get(key)
        if known is None or known[0] != raw:
            known = (raw, decode(raw))
            self._decoded[key] = known
        found: T = known[1]
        return found

    def state_at(self, key: str) -> StoredState:
        """The state last committed under `key`, left where it is.

        Raises:
            ValueError: there is none.
        """
        return state_in(self.journal.vector(key))

    def commit(self, puts: Mapping[str, bytes | Drafted | Record | State], deletes: Iterable[str] = ()) -> None:
        """One durable transaction; a key both deleted and put is put. A state is written ahead in chunks."""
        encoded = {key: self._encoded(value) for key, value in puts.items()}
        gone = tuple(key for key in deletes if key not in encoded)
        self.journal.commit(encoded, gone)
        for key in gone:
            self._decoded.pop(key, None)
        for key, value in puts.items():
            raw = encoded[key]
            if isinstance(value, Record) and isinstance(raw, bytes):
                self._decoded[key] = (raw, value)  # it is frozen, and what these bytes decode to

    def _encoded(self, value: bytes | Drafted | Record | State) -> bytes | Drafted:
        if isinstance(value, State):
            return enter_state(self.journal, value)
        return record_bytes(value) if isinstance(value, Record) else value


def _decoded(cls: type[R], key: str, raw: bytes) -> R:
    try:
        return record_from_bytes(cls, raw)
    except ValueError as error:
        raise StorageError(
            "STATE_FOREIGN",
            f"the journal's {key} is no {cls.__name__} of this version",
            "point the service at its own state folder; do not copy states between versions",
        ) from error
