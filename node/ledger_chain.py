"""The ledger's entries in one SQLite file, and the errors by which an older or edited file gives itself away."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.errors import StorageError
from fedvlm_secure.store.private_files import (
    FILE_MODE,
    disk_full,
    private_folder,
    read_only,
    storage_error,
    sync_folder,
)
from fedvlm_secure.types import Digest
from node.ledger_entries import Entry, Restored, entry_digest, parse_entry

_APPLICATION_ID = 0x46564C4C  # "FVLL": tells a ledger from any other SQLite file
_FORMAT = 1
_BUSY_S = 60
_SCHEMA = f"""
PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={_FORMAT};
CREATE TABLE entry (sequence INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER entry_remains BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""


@dataclass(frozen=True)
class LedgerPaths:
    """Where a hospital's ledger lives.

    Attributes:
        folder: holds ledger.sqlite and its lock.
        anchor: a file in a second place, which a restore of the first does not bring back.
        key: 32 bytes that key patient hashes and the anchor.
    """

    folder: Path
    anchor: Path
    key: Path

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"


def ledger_paths(state: Path, anchor: Path | None = None) -> LedgerPaths:
    """The usual places for a hospital's state folder; the anchor stands beside the folder, not in it."""
    beside = state.absolute().parent / f"{state.absolute().name}.ledger-anchor.json"
    return LedgerPaths(state / "ledger", anchor or beside, state / "keys" / "ledger.key")


@contextmanager
def exclusive(paths: LedgerPaths) -> Iterator[None]:
    """One process and thread at a time may look at the ledger, decide and write, anchor included.

    Raises:
        StorageError: the lock file cannot be opened.
    """
    path = private_folder(paths.folder) / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def create_chain(path: Path) -> None:
    """Make an empty ledger file, mode 0600.

    Raises:
        StorageError: LEDGER_EXISTS, or it cannot be written.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE))
        sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise StorageError("LEDGER_EXISTS", f"{path} exists already", "it is never overwritten") from error
        raise storage_error(path, error) from error
    with _open(path) as connection:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def read_chain(path: Path, after: int, previous: Digest) -> Iterator[tuple[Entry, Digest]]:
    """Entries numbered above `after`, each checked to follow the one before it.

    Args:
        path: the ledger file.
        after: sequence number already known, 0 for none.
        previous: hash of that entry, `GENESIS` for none.

    Yields:
        Each entry with its hash.

    Raises:
        StorageError: LEDGER_MISSING; LEDGER_TAMPERED, naming the first entry that does not fit; I/O errors.
    """
    if not path.exists():
        raise missing(path)
    with _open(path) as connection:
        marks = tuple(connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if marks != (_APPLICATION_ID, _FORMAT):
            raise tampered(path, "it is not a ledger of this format")
        rows = connection.execute("SELECT sequence, content FROM entry WHERE sequence > ? ORDER BY sequence", (after,))
        for sequence, content in rows:
            entry = _checked(path, sequence, content, after, previous)
            after, previous = sequence, entry_digest(content)
            yield entry, previous


def _checked(path: Path, sequence: int, content: object, after: int, previous: Digest) -> Entry:
    try:
        entry = parse_entry(content if isinstance(content, bytes) else b"")
    except ValueError as error:
        raise tampered(path, f"entry {sequence} cannot be read") from error
    jump = isinstance(entry.body, Restored) and sequence > after
    if entry.sequence != sequence or entry.previous != previous or not (sequence == after + 1 or jump):
        raise tampered(path, f"entry {sequence} does not follow entry {after}")
    return entry


def holds_entry(path: Path, sequence: int, digest: Digest) -> bool:
    """Whether entry `sequence` of the file has this hash; 0 stands before every first entry.

    Raises:
        StorageError: LEDGER_TAMPERED, or an I/O error.
    """
    if sequence == 0:
        return True
    with _open(path) as connection:
        row = connection.execute("SELECT content FROM entry WHERE sequence = ?", (sequence,)).fetchone()
    return row is not None and isinstance(row[0], bytes) and entry_digest(row[0]) == digest


def append_entries(path: Path, entries: list[Entry]) -> None:
    """Write entries in one transaction; durable when it returns.

    Raises:
        StorageError: nothing was written.
    """
    with _open(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = [(entry.sequence, entry.to_bytes()) for entry in entries]
            connection.executemany("INSERT INTO entry VALUES (?, ?)", rows)
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)) as connection:
            connection.text_factory = bytes  # so that an edited value is judged by us, not by a decoder
            # EXTRA also syncs the folder after the rollback journal is deleted: committed means committed.
            for pragma in ("journal_mode=DELETE", "synchronous=EXTRA", "temp_store=MEMORY", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {pragma}")
            yield connection
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise disk_full(path, 0) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise read_only(path) from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")):
            raise tampered(path, "it is not a whole ledger file") from error
        raise StorageError("STORAGE_IO", f"{path}: {name or 'SQLite error'}", "check the disk, then restart") from error


_RESTORE_HINT = (
    "do not train; find out what happened, move a broken file aside, and run `fedvlm-node ledger restore` with the "
    "other parties' records"
)


def missing(path: Path) -> StorageError:
    """LEDGER_MISSING: there was a ledger, and it is gone; or there never was one."""
    return StorageError(
        "LEDGER_MISSING",
        f"{path} does not exist",
        "a new hospital runs `fedvlm-node ledger open`; otherwise " + _RESTORE_HINT,
    )


def tampered(path: Path, cause: str) -> StorageError:
    """LEDGER_TAMPERED: the file says something else than it said before."""
    return StorageError("LEDGER_TAMPERED", f"{path}: {cause}", _RESTORE_HINT)


def set_back(path: Path, sequence: int, record: Path) -> StorageError:
    """LEDGER_ROLLED_BACK: this hospital signed that it held an entry which is not there."""
    return StorageError(
        "LEDGER_ROLLED_BACK",
        f"{path} does not hold entry {sequence} as this hospital's signed record {record} names it",
        _RESTORE_HINT,
    )


def rolled_back(path: Path, sequence: int, anchored: int) -> StorageError:
    """LEDGER_ROLLED_BACK: an older copy."""
    return StorageError(
        "LEDGER_ROLLED_BACK",
        f"{path} ends at entry {sequence}, but entry {anchored} was written before",
        _RESTORE_HINT,
    )
