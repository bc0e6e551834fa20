"""Files and folders that only their owner may read, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from fedvlm_secure.errors import StorageError

FILE_MODE = 0o600
FOLDER_MODE = 0o700
_ZEROS = bytes(1 << 16)


def storage_error(path: Path, error: OSError, size_bytes: int = 0) -> StorageError:
    """The one error for what the operating system refused: DISK_FULL, STATE_READ_ONLY or STORAGE_IO."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return disk_full(path, size_bytes)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return read_only(path)
    return StorageError(
        "STORAGE_IO", f"{path}: {os.strerror(error.errno or errno.EIO)}", "check the disk and the path, then restart"
    )


def disk_full(path: Path, size_bytes: int) -> StorageError:
    """DISK_FULL: where, how many bytes were to be written and how many are free."""
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    return StorageError(
        "DISK_FULL",
        f"{path}: {size_bytes} bytes could not be written, {free} bytes are free on that disk",
        "free space there and restart; what was committed before is whole",
    )


def read_only(path: Path) -> StorageError:
    """STATE_READ_ONLY."""
    return StorageError(
        "STATE_READ_ONLY", f"{path} cannot be written", "give the service's user write access, then restart"
    )


def private_folder(path: Path) -> Path:
    """Make a folder (and its parents) and see that only the owner may enter it.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def sync_folder(path: Path) -> None:
    """Make a rename or a new name in this folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replace a file: a reader, or a restart after a crash, finds the old content or the new one, never a part.

    Raises:
        StorageError: the old content still stands.
    """
    draft = path.with_name(f".{path.name}.draft")
    write_draft(draft, [content])
    take_name(draft, path)


def write_draft(draft: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file, durably, under a name that `take_name` then changes.

    Raises:
        StorageError: nothing is kept. So it is with whatever `chunks` raises.
    """
    size = 0
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        try:
            for chunk in chunks:
                size += len(chunk)
                write_all(handle, chunk)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        _let_go(draft)
        raise storage_error(draft, error, size) from error
    except BaseException:
        _let_go(draft)
        raise


def take_name(draft: Path, path: Path) -> None:
    """Put a draft in the place of a file, durably.

    Raises:
        StorageError: the old content still stands, and the draft is gone.
    """
    try:
        os.replace(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        _let_go(draft)
        raise storage_error(path, error) from error


def _let_go(draft: Path) -> None:
    with contextlib.suppress(OSError):  # a disk that is read-only by now does not let go of it either
        draft.unlink(missing_ok=True)


def write_all(handle: int, content: bytes | memoryview) -> None:
    """`os.write` until nothing is left (it may write less than it was given)."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def overwrite(path: Path) -> None:
    """Fill a file with zeros, durably, before it is removed: what a disk keeps of removed files says nothing then.

    Raises:
        OSError: as the operating system says.
    """
    handle = os.open(path, os.O_WRONLY)
    try:
        left = os.fstat(handle).st_size
        while left > 0:
            write_all(handle, _ZEROS[: min(left, len(_ZEROS))])
            left -= len(_ZEROS)
        os.fsync(handle)
    finally:
        os.close(handle)
