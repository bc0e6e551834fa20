"""Values above a chunk live in files: entered by a commit, erased with their key, whatever a crash leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.rounds.vectors import Drafted, chunk_count
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, chunk_root
from fedvlm_secure.store.journal import SqliteJournal

CONTENT = b"".join(bytes([k]) * CHUNK_BYTES for k in (1, 2)) + b"the tail"
MARK = b"\x01" * 4096


def drafted(journal: SqliteJournal) -> Drafted:
    draft = journal.draft()
    for at in range(0, len(CONTENT), CHUNK_BYTES):
        draft.append(CONTENT[at : at + CHUNK_BYTES])
    return draft.finish()


def on_disk(folder: Path) -> bool:
    return any(MARK in path.read_bytes() for path in folder.iterdir())


def test_drafted_vector_is_entered_by_a_commit_and_read_chunk_by_chunk_after_a_restart(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    vector = drafted(journal)
    assert vector.root == chunk_root(CONTENT) and journal.get("round/content") is None
    journal.commit({"round/content": vector, "small": b"x"})
    journal.close()
    journal = SqliteJournal(tmp_path)
    held = journal.vector("round/content")
    assert held is not None and held.size_bytes == len(CONTENT)
    assert b"".join(held.chunk(index) or b"" for index in range(chunk_count(held))) == CONTENT
    assert held.chunk(chunk_count(held)) is None
    assert journal.get("round/content") == CONTENT
    small = journal.vector("small")
    assert small is not None and small.chunk(0) == b"x"
    journal.close()


@pytest.mark.parametrize("erase", ["delete", "replace"])
def test_erased_vector_is_nowhere_on_disk_and_who_still_reads_it_finds_nothing(tmp_path: Path, erase: str) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"round/content": drafted(journal)})
    held = journal.vector("round/content")
    assert on_disk(tmp_path)
    journal.commit({} if erase == "delete" else {"round/content": b"y"}, ["round/content"])
    assert not on_disk(tmp_path)
    assert held is not None and held.chunk(0) is None
    journal.close()


def test_draft_that_no_commit_entered_is_erased_by_the_next_start(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"kept": drafted(journal)})
    drafted(journal)
    journal.close()
    journal = SqliteJournal(tmp_path)
    assert len(list(tmp_path.glob("value-*"))) == 1
    assert journal.get("kept") == CONTENT
    again = drafted(journal)
    journal.commit({"other": again})
    assert (journal.get("kept"), journal.get("other")) == (CONTENT, CONTENT), "no file is written over"
    journal.close()


def test_dropped_draft_leaves_nothing(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    draft = journal.draft()
    draft.append(CONTENT[:CHUNK_BYTES])
    draft.drop()
    assert not list(tmp_path.glob("value-*"))
    journal.close()


def test_large_value_given_whole_takes_a_file_and_no_row(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"state": CONTENT})
    assert (tmp_path / "journal.sqlite").stat().st_size < CHUNK_BYTES
    assert journal.get("state") == CONTENT
    journal.commit({"state": CONTENT[:-1]})
    assert journal.get("state") == CONTENT[:-1]
    assert len(list(tmp_path.glob("value-*"))) == 1
    journal.close()


def test_flipped_bit_in_a_file_is_found(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    journal.commit({"state": CONTENT})
    (path,) = tmp_path.glob("value-*")
    raw = bytearray(path.read_bytes())
    raw[CHUNK_BYTES + 7] ^= 1
    path.write_bytes(raw)
    held = journal.vector("state")
    assert held is not None and held.chunk(0) == CONTENT[:CHUNK_BYTES]
    with pytest.raises(StorageError) as caught:
        held.chunk(1)
    assert caught.value.code == "STATE_CORRUPT"
    with pytest.raises(StorageError):
        journal.get("state")
    journal.close()


def test_chunk_after_a_short_one_is_our_fault(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path)
    draft = journal.draft()
    draft.append(b"short")
    with pytest.raises(ValueError, match="last one"):
        draft.append(b"more")
    draft.drop()
    journal.close()
