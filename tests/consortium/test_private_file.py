"""Key files appear whole or not at all, and no draft stays behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedvlm_secure.errors import StorageError
from fedvlm_secure.policy.private_file import read_file, write_private


def test_a_full_disk_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_fresh_file_never_replaces_one(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"first", fresh=True)
    with pytest.raises(StorageError) as caught:
        write_private(tmp_path / "key", b"second", fresh=True)
    assert caught.value.code == "FILE_EXISTS"
    assert (tmp_path / "key").read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_mode_is_private_even_under_a_loose_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        read_file(tmp_path / "none", missing_hint="make it first")
    assert caught.value.hint == "make it first"
