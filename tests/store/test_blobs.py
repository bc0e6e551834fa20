"""Attachments: whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.rounds.vectors import cut
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, chunk_root
from fedvlm_secure.store.blobs import FileBlobs


def test_a_blob_is_read_whole_and_by_chunks(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    content = bytes(range(256)) * (CHUNK_BYTES // 128) + b"tail"
    root = chunk_root(content)
    assert blobs.chunk(root, 0) is None
    assert blobs.put(cut(content)) == root
    chunks = [FileBlobs(tmp_path).chunk(root, index) for index in range(4)]
    assert chunks[3] is None and b"".join(chunk for chunk in chunks if chunk) == content


def test_only_what_is_kept_stays(tmp_path: Path) -> None:
    blobs = FileBlobs(tmp_path)
    roots = [chunk_root(bytes([k])) for k in range(3)]
    assert roots == [blobs.put([bytes([k])]) for k in range(3)]
    blobs.keep_only([roots[1]])
    assert [blobs.chunk(root, 0) for root in roots] == [None, b"\x01", None]


def test_a_full_disk_leaves_no_half_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FileBlobs(tmp_path)
    root = chunk_root(b"sum")

    def full(handle: int, content: memoryview) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StorageError) as caught:
            blobs.put([b"sum"])
    assert caught.value.code == "DISK_FULL"
    assert blobs.chunk(root, 0) is None and list(tmp_path.iterdir()) == []
