"""The spool: an upload resumes at a chunk border, and what was acknowledged stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, leaf_hash
from fedvlm_secure.store.spool import FileSpool
from fedvlm_secure.types import Digest, NodeId

CTX, OTHER = Digest(bytes(32)), Digest(bytes([1]) * 32)
A, B = NodeId("hospital-a"), NodeId("hospital-b")


def _chunk(value: int, size: int = CHUNK_BYTES) -> bytes:
    return bytes([value]) * size


def test_chunks_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    sent = [_chunk(1), _chunk(2), _chunk(3, 800)]
    for chunk in sent:
        spool.append(CTX, A, chunk)
    spool.finish(CTX, A)
    again = FileSpool(tmp_path)
    assert again.held_chunks(CTX, A) == 3
    assert list(again.chunks(CTX, A)) == sent
    assert again.held_chunks(CTX, B) == 0 and list(again.chunks(OTHER, A)) == []


def test_a_cut_chunk_is_dropped_and_sent_again(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    spool.append(CTX, A, _chunk(1))
    spool.append(CTX, A, _chunk(2, 500))  # what a crash leaves of a second chunk
    assert FileSpool(tmp_path).held_chunks(CTX, A) == 1
    spool.append(CTX, A, _chunk(2))
    assert list(spool.chunks(CTX, A)) == [_chunk(1), _chunk(2)]


def test_nothing_follows_a_short_chunk_or_a_finished_upload(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    spool.append(CTX, A, _chunk(1, 8))
    with pytest.raises(ValueError, match="only the last"):
        spool.append(CTX, A, _chunk(2))
    spool.finish(CTX, A)
    for bad in (_chunk(2), b"", _chunk(1, CHUNK_BYTES + 1)):
        with pytest.raises(ValueError):
            spool.append(CTX, A, bad)
    assert list(spool.chunks(CTX, A)) == [_chunk(1, 8)]


def test_discarding_one_upload_keeps_the_others(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    for ctx, node in ((CTX, A), (CTX, B), (OTHER, A)):
        spool.append(ctx, node, b"12345678")
        spool.finish(ctx, node)
    spool.discard(CTX, A)
    assert [spool.held_chunks(*where) for where in ((CTX, A), (CTX, B), (OTHER, A))] == [0, 1, 1]
    spool.discard(CTX)
    spool.discard(CTX)
    assert [spool.held_chunks(*where) for where in ((CTX, B), (OTHER, A))] == [0, 1]


def test_a_full_disk_keeps_the_chunks_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path)
    spool.append(CTX, A, _chunk(1))
    write = os.write

    def half_then_full(handle: int, content: memoryview) -> int:
        if len(content) == CHUNK_BYTES:
            return write(handle, content[: CHUNK_BYTES // 2])
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        with pytest.raises(StorageError) as caught:
            spool.append(CTX, A, _chunk(2))
    assert caught.value.code == "DISK_FULL" and str(CHUNK_BYTES) in caught.value.cause
    assert spool.held_chunks(CTX, A) == 1
    spool.append(CTX, A, _chunk(2))
    assert list(spool.chunks(CTX, A)) == [_chunk(1), _chunk(2)]


def test_a_node_id_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        FileSpool(tmp_path).append(CTX, NodeId("../../x"), b"1")


def test_hashes_of_an_upload_are_those_of_what_is_held_also_after_a_restart_or_a_cut(tmp_path: Path) -> None:
    content = b"".join(bytes([k]) * CHUNK_BYTES for k in range(3)) + b"tail"
    chunks = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
    expected = (len(content), [leaf_hash(chunk) for chunk in chunks])
    spool = FileSpool(tmp_path)
    assert spool.hashed(CTX, A) == (0, [])
    for chunk in chunks[:2]:
        spool.append(CTX, A, chunk)
    restarted = FileSpool(tmp_path)
    for chunk in chunks[2:]:
        restarted.append(CTX, A, chunk)
    assert restarted.hashed(CTX, A) == expected
    spool.discard(CTX, A)
    for chunk in (*chunks[:2], b"cut"):
        spool.append(CTX, A, chunk)
    assert spool.held_chunks(CTX, A) == 2
    for chunk in chunks[2:]:
        spool.append(CTX, A, chunk)
    assert spool.hashed(CTX, A) == expected
