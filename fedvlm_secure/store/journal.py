"""The journal in one SQLite file, large values beside it: committed means on disk, erased means overwritten."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedvlm_secure.canonical import encode
from fedvlm_secure.errors import FedvlmError, StorageError
from fedvlm_secure.rounds.vectors import Drafted, HeldVector, StoredVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.store.large_values import FileDraft, LargeValues, decode_drafted, encode_drafted
from fedvlm_secure.store.lock import StateLock
from fedvlm_secure.store.private_files import (
    FILE_MODE,
    disk_full,
    overwrite,
    private_folder,
    read_only,
    storage_error,
    sync_folder,
)

_APPLICATION_ID = 0x46564C4D  # "FVLM": tells a journal from any other SQLite file
_FORMAT = 1
_LARGE = "journal-large"
"""Stands in the proof of a row that names a file, so that no stored value passes as one."""

_LONGEST_ROW = 1 << 20
_LONGEST_KEPT = 1 << 16
_LAST_CHARACTER = "\U0010ffff"
_SMALLEST_PAGE = 512
_PRAGMAS = (
    # First of all, and before anything is read: what a crash left is then rolled back without the file being deleted.
    "locking_mode=EXCLUSIVE",
    # The rollback journal keeps its name and is overwritten after each commit that erases: DELETE and TRUNCATE would
    # leave the erased values in free blocks, WAL would keep them in its log.
    "journal_mode=PERSIST",
    "synchronous=FULL",
    "secure_delete=ON",
    "temp_store=MEMORY",
    "trusted_schema=OFF",
)


class SqliteJournal:
    """`rounds.storage.Journal` in `folder/journal.sqlite`, for one process at a time.

    One commit is one transaction and three or four fsyncs: 16 ms for 2 kB and 24 ms for 1 MiB as measured on a virtual
    disk (ext4). The machines put all of a step into one commit, so a round costs a handful. Each row carries a SHA-256
    over key and value, since SQLite does not notice a flipped bit inside a value. What was read and is not large is
    kept in memory until it is replaced or erased: a machine looks at its state many times in a step.

    A value above 1 MiB goes into a file of its own, and the row holds its name and the hashes of its chunks: SQLite
    takes no value above 1 GB, and a vector is written and read without ever being one object in memory.

    Args:
        folder: made 0700 if it is not there.

    Raises:
        StorageError: STATE_IN_USE, STATE_CORRUPT, STATE_FOREIGN, STATE_READ_ONLY, DISK_FULL or STORAGE_IO.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = StateLock(folder)
        self._path = private_folder(folder) / "journal.sqlite"
        self._rollback = self._path.with_name(self._path.name + "-journal")
        self._one_at_a_time = threading.Lock()
        self._large = LargeValues(folder)
        self._read: dict[str, bytes] = {}
        try:
            self._connection = self._open()
        except FedvlmError:
            self._lock.release()
            raise
        try:
            self._overwrite_rollback()
            self._large.keep_only([drafted.name for drafted in self._entered(self.keys("")).values()])
        except FedvlmError:
            self._connection.close()
            self._lock.release()
            raise

    def _open(self) -> sqlite3.Connection:
        for path in (self._path, self._rollback):
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))
                path.chmod(FILE_MODE)
            except OSError as error:
                raise storage_error(path, error) from error
        try:
            sync_folder(self._path.parent)
            size = self._path.stat().st_size
        except OSError as error:
            raise storage_error(self._path.parent, error) from error
        if 0 < size < _SMALLEST_PAGE:  # SQLite would take what is left of a file for a new one
            raise self._corrupt()
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            with self._errors(0):
                for pragma in _PRAGMAS:
                    connection.execute(f"PRAGMA {pragma}")
                self._check_or_create(connection)
        except FedvlmError:
            connection.close()
            raise
        return connection

    def _check_or_create(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={_FORMAT};"
                "CREATE TABLE entry (key TEXT PRIMARY KEY, value BLOB NOT NULL, proof BLOB NOT NULL); COMMIT;"
            )
        elif (application, version) != (_APPLICATION_ID, _FORMAT):
            raise StorageError(
                "STATE_FOREIGN",
                f"{self._path} is not a journal of format {_FORMAT}",
                "point the service at its own state folder; do not copy states between versions",
            )
        elif connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise self._corrupt()

    def get(self, key: str) -> bytes | None:
        """The value last committed under `key`.

        Raises:
            StorageError: STATE_CORRUPT if it is not what was committed.
        """
        value = self._row(key)
        if isinstance(value, Drafted):
            vector = self._large.open(value)
            return b"".join(self._whole(vector.chunk(index)) for index in range(len(value.leaves)))
        return value

    def vector(self, key: str) -> StoredVector | None:
        """The value last committed under `key`, to be read chunk by chunk.

        Raises:
            StorageError: STATE_CORRUPT if it is not what was committed.
        """
        value = self._row(key)
        if isinstance(value, Drafted):
            return self._large.open(value)
        return None if value is None else HeldVector(value)

    def draft(self) -> FileDraft:
        """Begin a large value that a later commit enters.

        Raises:
            StorageError: no file could be made.
        """
        return self._large.draft()

    def drafted(self, drafted: Drafted) -> StoredVector:
        """A finished draft that no commit has entered yet, to be read chunk by chunk."""
        return self._large.open(drafted)

    def _row(self, key: str) -> bytes | Drafted | None:
        with self._one_at_a_time:
            known = self._read.get(key)
            if known is not None:
                return known
            with self._errors(0):
                row = self._connection.execute("SELECT value, proof FROM entry WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            value, proof = row
            if isinstance(value, bytes):
                if proof == _proof(key, value):
                    if len(value) <= _LONGEST_KEPT:
                        self._read[key] = value
                    return value
                if proof == _proof(key, value, label=_LARGE):
                    return decode_drafted(value)
        raise self._corrupt()

    def _whole(self, chunk: bytes | None) -> bytes:
        if chunk is None:
            raise self._corrupt()
        return chunk

    def _entered(self, keys: Iterable[str]) -> dict[str, Drafted]:
        """Those of the keys whose value is a file."""
        found: dict[str, Drafted] = {}
        for key in keys:
            with self._one_at_a_time, self._errors(0):
                row = self._connection.execute(
                    "SELECT value, proof FROM entry WHERE key = ? AND length(value) <= ?", (key, _LONGEST_ROW)
                ).fetchone()
            if row is not None and row[1] == _proof(key, row[0], label=_LARGE):
                found[key] = decode_drafted(row[0])
        return found

    def keys(self, prefix: str) -> list[str]:
        """Committed keys that start with `prefix`, sorted."""
        with self._one_at_a_time, self._errors(0):
            rows = self._connection.execute(
                "SELECT key FROM entry WHERE key >= ? AND key < ?", (prefix, prefix + _LAST_CHARACTER)
            ).fetchall()
        return sorted(str(row[0]) for row in rows)

    def commit(self, puts: Mapping[str, bytes | Drafted], deletes: Sequence[str] = ()) -> None:
        """Write and delete in one transaction; durable, and the deleted overwritten on disk, when it returns.

        Raises:
            StorageError: nothing was written.
        """
        replaced = self._entered((*deletes, *puts))
        entered: dict[str, bytes | Drafted] = {}
        try:
            for key, value in puts.items():
                large = isinstance(value, bytes) and len(value) > CHUNK_BYTES
                entered[key] = self._large.write(value) if large else value  # type: ignore[arg-type]  # bytes, as asked
            self._commit_rows([_row_of(key, value) for key, value in entered.items()], (*deletes, *puts))
        except BaseException:
            self._large.erase([v.name for v in entered.values() if isinstance(v, Drafted)])
            raise
        self._large.erase([drafted.name for drafted in replaced.values()])

    def _commit_rows(self, rows: Sequence[tuple[str, bytes, bytes]], deletes: Sequence[str]) -> None:
        with self._one_at_a_time:
            for key in deletes:  # every key that is put is among them
                self._read.pop(key, None)
            with self._errors(sum(len(value) for _, value, _ in rows)), self._transaction():
                erased = self._connection.executemany(
                    "DELETE FROM entry WHERE key = ?", [(key,) for key in deletes]
                ).rowcount
                self._connection.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
            if erased > 0:
                self._overwrite_rollback()

    def close(self) -> None:
        """Close the file and let another process have the state."""
        self._large.close()
        with self._one_at_a_time:
            self._read.clear()
            self._connection.close()
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _overwrite_rollback(self) -> None:
        """Zero the rollback journal: it holds the pages as they were before values were erased.

        Outside a transaction its content counts for nothing (a header of zeros is no hot journal), so that a crash at
        any point here loses nothing; the next start overwrites again.
        """
        try:
            overwrite(self._rollback)
        except OSError as error:
            raise storage_error(self._rollback, error) from error

    @contextmanager
    def _errors(self, size_bytes: int) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_FULL":
                raise disk_full(self._path, size_bytes) from error
            if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
                raise read_only(self._path) from error
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
                raise self._corrupt() from error
            raise StorageError(
                "STORAGE_IO", f"{self._path}: {name or 'SQLite error'}", "check the disk, then restart"
            ) from error

    def _corrupt(self) -> StorageError:
        return StorageError(
            "STATE_CORRUPT",
            f"{self._path} is not what was committed",
            "restore nothing older: start with a fresh state folder, so that the next epoch takes this party in",
        )


def _row_of(key: str, value: bytes | Drafted) -> tuple[str, bytes, bytes]:
    if isinstance(value, Drafted):
        row = encode_drafted(value)
        return key, row, _proof(key, row, label=_LARGE)
    return key, bytes(value), _proof(key, value)


def _proof(key: str, value: bytes, *, label: str = "journal") -> bytes:
    return hashlib.sha256(encode([label, key, bytes(value)])).digest()
