"""A disk that is full, read-only or failing, at every write of every party: one clear error, nothing lost, then on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedvlm_secure.errors import StorageError
from tests.store.writers import WRITERS, Writer

CALLS = ("open", "write", "fsync", "ftruncate", "replace", "link")
FULL = {"DISK_FULL", "FILE_UNWRITABLE", "AUDIT_UNWRITABLE"}
MOST_CALLS = 60


def _must_say(error: StorageError, folder: Path) -> None:
    """Where, how much, and what to do."""
    assert str(folder) in error.cause and any(character.isdigit() for character in error.cause.replace(str(folder), ""))
    assert error.hint


class FailingOnce:
    """The system's calls, of which one, counted from 0 over all of them, fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
        self._left, self._number, self.failed = -1, number, False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name), folder))

    def _wrapped(self, real: Callable[..., Any], folder: Path) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self._left += 1
            if self._left == self._number:
                self.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        return call


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_call_fails_first_nothing_is_lost(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite writes below Python: of the journal and the ledger this fails the calls around it."""
    writer = WRITERS[name]
    for number in range(MOST_CALLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        writer.prepare(folder)
        writer.write(folder, 1)
        with monkeypatch.context() as patch:
            failing = FailingOnce(patch, folder, number)
            error = _refused(writer, folder, 2)
        if error is not None:
            assert error.code in FULL
            _must_say(error, folder)
        if not failing.failed:
            return  # every call of one write has failed once
        assert writer.read(folder) in ([1], [1, 2]), f"call {number}"
        if 2 not in writer.read(folder):
            writer.write(folder, 2)
        writer.write(folder, 3)
        assert writer.read(folder) == [1, 2, 3], f"after call {number}"
        shutil.rmtree(folder)
    raise AssertionError(f"a write takes more than {MOST_CALLS} calls")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 1 MiB; only who may mount has it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def _fill(disk: Path) -> Path:
    """Take all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(disk).free > 0:
            file.write(bytes(4096))
    assert shutil.disk_usage(disk).free == 0
    return filler


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_really_full_loses_nothing_and_work_goes_on_once_there_is_room(
    name: str, small_disk: Path
) -> None:
    writer, folder = WRITERS[name], small_disk / "state"
    folder.mkdir()
    writer.prepare(folder)
    writer.write(folder, 1)
    filler = _fill(small_disk)
    error = _refused(writer, folder, 2)
    if error is not None:  # a small write may still fit into a page that was there
        assert error.code in FULL
        _must_say(error, folder)
    filler.unlink()
    there = writer.read(folder)
    assert there == ([1] if error is not None else [1, 2])
    for number in range(len(there) + 1, 4):
        writer.write(folder, number)
    assert writer.read(folder) == [1, 2, 3]


def _refused(writer: Writer, folder: Path, number: int) -> StorageError | None:
    try:
        writer.write(folder, number)
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_turned_read_only_is_one_error(name: str, small_disk: Path) -> None:
    writer, folder = WRITERS[name], small_disk / "state"
    folder.mkdir()
    writer.prepare(folder)
    writer.write(folder, 1)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StorageError) as caught:
        writer.write(folder, 2)
    assert str(folder) in caught.value.cause and caught.value.hint
    assert caught.value.code in {"STATE_READ_ONLY", "FILE_UNWRITABLE", "FOLDER_UNWRITABLE", "AUDIT_UNWRITABLE"}
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    writer.write(folder, 2)
    assert writer.read(folder) == [1, 2]
