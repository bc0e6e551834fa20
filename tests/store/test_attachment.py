"""Attachments on disk while they come: whole chunks, checked when read, gone with who holds them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.rounds.vectors import WordSlices, as_words, chunks_of, cut, joined
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, chunk_root
from fedvlm_secure.store.attachment import FileAttachment

CONTENT = bytes(range(256)) * (CHUNK_BYTES // 128) + b"the tail"


def filled(folder: Path, content: bytes = CONTENT) -> FileAttachment:
    attachment = FileAttachment(folder)
    for chunk in cut(content):
        attachment.append(bytes(chunk))
    return attachment


def test_what_was_written_is_read_and_has_its_root(tmp_path: Path) -> None:
    attachment = filled(tmp_path)
    assert b"".join(chunks_of(attachment)) == CONTENT
    assert (attachment.size_bytes, attachment.chunks, attachment.is_open) == (len(CONTENT), 3, False)
    assert attachment.root == chunk_root(CONTENT) and attachment.chunk(3) is None and attachment.chunk(-1) is None
    assert FileAttachment(tmp_path).root == chunk_root(b"")


def test_nothing_of_it_has_a_name(tmp_path: Path) -> None:
    attachment = filled(tmp_path)
    assert list(tmp_path.iterdir()) == [] and attachment.chunk(0)


@pytest.mark.parametrize("chunk", [b"", bytes(CHUNK_BYTES + 1)])
def test_only_whole_chunks_are_taken(tmp_path: Path, chunk: bytes) -> None:
    attachment = FileAttachment(tmp_path)
    with pytest.raises(ValueError, match="1 MiB"):
        attachment.append(chunk)
    attachment.append(b"short")
    with pytest.raises(ValueError, match="1 MiB"):
        attachment.append(b"another")
    assert attachment.size_bytes == 5


def test_a_disk_that_gives_back_something_else_is_noticed(tmp_path: Path) -> None:
    attachment = filled(tmp_path)
    os.pwrite(attachment._file.fileno(), b"?", CHUNK_BYTES + 7)
    assert attachment.chunk(0) == CONTENT[:CHUNK_BYTES]
    with pytest.raises(StorageError) as caught:
        attachment.chunk(1)
    assert caught.value.code == "STATE_CORRUPT"


def test_a_chunk_that_a_full_disk_cut_is_written_again_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attachment, write = FileAttachment(tmp_path), os.write
    attachment.append(CONTENT[:CHUNK_BYTES])

    def full(handle: int, content: memoryview) -> int:
        write(handle, content[:100])
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError) as caught:
            attachment.append(CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES])
    assert caught.value.code == "DISK_FULL" and attachment.chunks == 1
    for chunk in list(cut(CONTENT))[1:]:
        attachment.append(bytes(chunk))
    assert b"".join(chunks_of(attachment)) == CONTENT


def test_words_read_in_slices_are_the_words_read_at_once(tmp_path: Path) -> None:
    attachment = filled(tmp_path)
    words, slices = as_words(attachment), WordSlices(attachment)
    assert len(slices) == len(words) == len(CONTENT) // 8
    border = CHUNK_BYTES // 8
    for part in (slice(0, 5), slice(border - 3, border + 4), slice(border, None), slice(0, None), slice(9, 9)):
        assert slices[part].tolist() == words[part].tolist()
    assert b"".join(chunk.astype("<u8").tobytes() for chunk in joined(words[:100], words[100:])) == CONTENT
    with pytest.raises(ValueError, match="8 bytes"):
        as_words(filled(tmp_path, b"seven b"))
