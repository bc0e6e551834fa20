"""The SQLite journal: all or nothing, durable, erased for good, one process at a time."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.store.journal import SqliteJournal

ROOT = Path(__file__).parents[2]
SECRET = bytes(range(7, 71))


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"round/1": b"one", "round/2": b"", "other": bytes(3 << 20)})
    journal.commit({"round/1": b"uno"}, ["other", "never there"])
    journal.close()
    again = SqliteJournal(tmp_path)
    assert (again.get("round/1"), again.get("round/2"), again.get("other")) == (b"uno", b"", None)
    assert again.keys("round/") == ["round/1", "round/2"]
    assert again.keys("%") == []
    again.close()


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    journal = SqliteJournal(folder)
    journal.commit({"a": b"b"})
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "lock": 0o600,
        "journal.sqlite": 0o600,
        "journal.sqlite-journal": 0o600,
    }
    journal.close()


@pytest.mark.parametrize("erase", ["delete", "replace"])
@pytest.mark.parametrize("copies", [1, 4000])
def test_erased_values_are_nowhere_on_disk(tmp_path: Path, erase: str, copies: int) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"keep": b"kept " * 100, "seed": SECRET * copies})
    assert _found(tmp_path)
    if erase == "delete":
        journal.commit({"next": b"x"}, ["seed"])
    else:
        journal.commit({"seed": b""})
    assert not _found(tmp_path)
    assert journal.get("keep") == b"kept " * 100
    journal.close()


def _found(folder: Path) -> bool:
    windows = [SECRET[at : at + 16] for at in range(len(SECRET) - 15)]
    return any(window in path.read_bytes() for path in folder.iterdir() for window in windows)


def test_a_second_process_on_the_same_state_is_turned_away(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    script = f"""
        from pathlib import Path
        from fedvlm_secure.errors import StorageError
        from fedvlm_secure.store.journal import SqliteJournal
        try:
            SqliteJournal(Path({str(tmp_path)!r})).close()
        except StorageError as error:
            print(error.code)
        else:
            print("opened")
    """
    assert _python(script) == "STATE_IN_USE"
    journal.close()
    assert _python(script) == "opened"


def _python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


def test_a_killed_writer_leaves_whole_commits_and_no_lock(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from fedvlm_secure.store.journal import SqliteJournal
        journal = SqliteJournal(Path({str(tmp_path)!r}))
        step = 0
        while True:
            step += 1
            journal.commit({{"a": str(step).encode() * 5000, "b": str(step).encode() * 5000}}, [])
            print(step, flush=True)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(5)][-1]
    time.sleep(0.05)
    os.kill(writer.pid, signal.SIGKILL)
    told = max([told, *(int(line) for line in writer.stdout.read().split())])
    writer.wait(timeout=10)
    journal = SqliteJournal(tmp_path)
    a, b = journal.get("a"), journal.get("b")
    assert a == b and a is not None
    step = int(a[: len(a) // 5000])
    assert step in (told, told + 1)
    journal.close()


def test_what_a_crash_left_half_done_is_rolled_back_and_overwritten(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({f"old{k}": SECRET * 500 for k in range(10)})
    journal.close()
    script = """
        import os, signal
        from pathlib import Path
        from fedvlm_secure.store.journal import SqliteJournal
        connection = SqliteJournal(Path("FOLDER"))._connection
        connection.execute("PRAGMA cache_size=1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM entry")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(subprocess.CalledProcessError):
        _python(script.replace("FOLDER", str(tmp_path)))
    rollback = tmp_path / "journal.sqlite-journal"
    left = os.open(rollback, os.O_RDONLY)
    assert os.pread(left, 8, 0) == bytes.fromhex("d9d505f920a163d7"), "SQLite's mark of a journal to play back"
    journal = SqliteJournal(tmp_path)
    assert os.fstat(left).st_nlink == 1, "not deleted"
    assert os.pread(left, 1 << 24, 0).strip(b"\0") == b"", "overwritten"
    os.close(left)
    assert [journal.get(f"old{k}") for k in range(10)] == [SECRET * 500] * 10
    journal.close()


def test_a_full_disk_writes_nothing_and_says_where_and_how_much(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"a": b"before"})
    journal._connection.execute("PRAGMA max_page_count=20")  # SQLite reports a full disk in the same way
    with pytest.raises(StorageError) as caught:
        journal.commit({"a": b"after", "big": bytes(1 << 20)})
    assert caught.value.code == "DISK_FULL"
    assert str(tmp_path) in caught.value.cause and str((1 << 20) + 5) in caught.value.cause
    assert (journal.get("a"), journal.get("big")) == (b"before", None)
    journal._connection.execute("PRAGMA max_page_count=100000")
    journal.commit({"a": b"after"})
    assert journal.get("a") == b"after"
    journal.close()


def test_a_flipped_bit_in_a_value_is_found(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"a": SECRET})
    journal.close()
    path = tmp_path / "journal.sqlite"
    raw = path.read_bytes()
    flipped = bytes([SECRET[0] ^ 1]) + SECRET[1:]
    path.write_bytes(raw.replace(SECRET, flipped))
    journal = SqliteJournal(tmp_path)
    with pytest.raises(StorageError) as caught:
        journal.get("a")
    assert caught.value.code == "STATE_CORRUPT"
    journal.close()


@pytest.mark.parametrize(
    ("content", "code"), [(b"not a database " * 1000, "STATE_CORRUPT"), (None, "STATE_FOREIGN")], ids=["noise", "other"]
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "journal.sqlite"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE patients (name TEXT)")
        other.commit()
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StorageError) as caught:
        SqliteJournal(tmp_path)
    assert caught.value.code == code
    assert path.read_bytes() == before
    with pytest.raises(StorageError) as again:
        SqliteJournal(tmp_path)
    assert again.value.code == code, "the lock was let go"


def test_a_state_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"a": b"b"})
    journal._connection.execute("PRAGMA query_only=ON")  # root writes through any file mode, so SQLite refuses instead
    with pytest.raises(StorageError) as caught:
        journal.commit({"a": b"c"})
    assert caught.value.code == "STATE_READ_ONLY"
    assert journal.get("a") == b"b"
    journal.close()
