"""State that was cut, flipped, exchanged, set back or copied: found out, named, and left as it is for whoever looks."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fedvlm_secure.audit.chain import read_chain
from fedvlm_secure.errors import FedvlmError, StorageError
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.store.lock import StateLock
from tests.store.writers import WRITERS, Writer

FLIPS = 40


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and path.stat().st_size)


@pytest.mark.parametrize("name", ["journal", "ledger", "audit"])
def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(name: str, tmp_path: Path) -> None:
    """What is read is what was written, or one error; a flip in a free page of a database is neither."""
    writer, sound = WRITERS[name], tmp_path / "sound"
    sound.mkdir()
    writer.prepare(sound)
    for number in (1, 2, 3):
        writer.write(sound, number)
    rng = random.Random(5)
    found = 0
    for at in range(FLIPS):
        folder = tmp_path / str(at)
        shutil.copytree(sound, folder)
        path = rng.choice(_files(folder))
        raw = bytearray(path.read_bytes())
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        path.chmod(0o600)
        error, there = _read(writer, folder)
        found += error is not None
        if error is not None:
            assert error.hint and str(folder) in error.cause
        elif name != "audit":  # its signatures are the auditor's to check; see tests/audit/test_tampering.py
            assert there == [1, 2, 3]
    assert found > 0


def _read(writer: Writer, folder: Path) -> tuple[StorageError | None, list[int]]:
    try:
        return None, writer.read(folder)
    except StorageError as error:
        return error, []


@pytest.mark.parametrize("name", ["journal", "ledger"])
def test_a_state_cut_short_is_one_error(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    writer.prepare(tmp_path)
    writer.write(tmp_path, 1)
    path = next(path for path in _files(tmp_path) if path.suffix == ".sqlite")
    raw = path.read_bytes()
    for size in (1, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(StorageError) as caught:
            writer.read(tmp_path)
        assert caught.value.code in {"STATE_CORRUPT", "STATE_FOREIGN", "LEDGER_TAMPERED"}
        assert path.read_bytes() == raw[:size], "kept as it was found"


@pytest.mark.parametrize("name", ["audit", "metrics"])
def test_a_last_record_that_a_crash_cut_is_written_again(name: str, tmp_path: Path) -> None:
    writer = WRITERS[name]
    writer.write(tmp_path, 1)
    (path,) = _files(tmp_path)
    whole = path.read_bytes()
    writer.write(tmp_path, 2)
    raw = path.read_bytes()
    for size in (len(whole) + 1, (len(whole) + len(raw)) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        writer.write(tmp_path, 3)
        assert writer.read(tmp_path) == [1, 3]


def test_a_cut_audit_record_is_no_record_to_an_auditor(tmp_path: Path) -> None:
    WRITERS["audit"].write(tmp_path, 1)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StorageError) as caught:
        read_chain(path)
    assert caught.value.code == "AUDIT_MALFORMED"


def test_a_ledger_set_back_to_an_older_copy_gives_itself_away(tmp_path: Path) -> None:
    writer = WRITERS["ledger"]
    writer.prepare(tmp_path)
    writer.write(tmp_path, 1)
    older = (tmp_path / "ledger" / "ledger.sqlite").read_bytes()
    writer.write(tmp_path, 2)
    (tmp_path / "ledger" / "ledger.sqlite").write_bytes(older)
    for attempt in (writer.read, lambda folder: writer.write(folder, 3)):
        with pytest.raises(StorageError) as caught:
            attempt(tmp_path)
        assert caught.value.code == "LEDGER_ROLLED_BACK"


def test_a_journal_of_another_format_is_refused_and_kept(tmp_path: Path) -> None:
    WRITERS["journal"].write(tmp_path, 1)
    path = tmp_path / "journal" / "journal.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError) as caught:
        SqliteJournal(tmp_path / "journal")
    assert caught.value.code == "STATE_FOREIGN" and path.read_bytes() == before


@pytest.mark.parametrize("stored", [b"", b"nonsense", b"m" + bytes(8), b"l" + bytes(8)])
def test_a_record_that_another_version_wrote_is_one_error(stored: bytes) -> None:
    """Its checksum holds, its fields are others."""
    journal = MemoryJournal()
    journal.commit({"run/open": stored, "run/closing": stored})
    memory = NodeMemory(journal)
    reads: tuple[Callable[[], object], ...] = (lambda: memory.opened_epoch, lambda: memory.closing)
    for read in reads:
        with pytest.raises(StorageError) as caught:
            read()
        assert caught.value.code == "STATE_FOREIGN" and "run/" in caught.value.cause


def test_one_state_serves_one_process_whatever_opens_it_first(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    for second in (SqliteJournal, StateLock):
        with pytest.raises(FedvlmError) as caught:
            second(tmp_path)
        assert caught.value.code == "STATE_IN_USE"
    journal.close()
    StateLock(tmp_path).release()


def test_a_blob_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    blobs._path(bytes(32)).mkdir()  # type: ignore[arg-type]  # stands where the file should
    with pytest.raises(StorageError) as caught:
        blobs.chunk(bytes(32), 0)  # type: ignore[arg-type]
    assert caught.value.code == "STORAGE_IO"
