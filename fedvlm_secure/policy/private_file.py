"""Files that hold keys or approvals: mode 0600 in folders of mode 0700, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from fedvlm_secure.errors import IdentityError, StorageError

_MAX_BYTES = 1 << 20


def make_private_folder(path: Path) -> None:
    """Create `path` with its parents; `path` itself gets mode 0700.

    Raises:
        StorageError: FOLDER_UNWRITABLE.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise StorageError(
            "FOLDER_UNWRITABLE", f"{path}: cannot make a private folder: {error.strerror}", "check owner and disk"
        ) from error


def write_private(path: Path, content: bytes, *, fresh: bool = False) -> None:
    """Write a file of mode 0600 so that a crash leaves the old file or the new one, never a part.

    Args:
        path: where; its folder exists.
        content: the whole file.
        fresh: refuse an existing file instead of replacing it.

    Raises:
        StorageError: FILE_EXISTS, or FILE_UNWRITABLE (disk full, no permission).
    """
    _write(path, content, mode=0o600, fresh=fresh)


def write_public(path: Path, content: bytes) -> None:
    """As `write_private`, for what others may read: mode 0644.

    Raises:
        StorageError: FILE_UNWRITABLE.
    """
    _write(path, content, mode=0o644, fresh=False)


def _write(path: Path, content: bytes, *, mode: int, fresh: bool) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            os.link(draft, path)  # unlike rename, link never replaces: two writers cannot both succeed
        else:
            draft.replace(path)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise StorageError("FILE_EXISTS", f"{path} exists already", "it is never overwritten") from error
    except OSError as error:
        raise StorageError(
            "FILE_UNWRITABLE",
            f"{path}: cannot write {len(content)} bytes: {error.strerror}",
            "check free space and permissions, then repeat the command or restart",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a disk that is read-only by now does not let go of it either
            draft.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, *, missing_hint: str) -> bytes:
    """The bytes of a file of at most 1 MiB.

    Raises:
        StorageError: FILE_MISSING with `missing_hint`, or FILE_UNREADABLE.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise StorageError("FILE_MISSING", f"{path} does not exist", missing_hint) from error
    except OSError as error:
        raise StorageError("FILE_UNREADABLE", f"{path}: cannot read: {error.strerror}", "check its owner") from error
    if len(raw) > _MAX_BYTES:
        raise StorageError("FILE_UNREADABLE", f"{path} is larger than {_MAX_BYTES} bytes", "this is not such a file")
    return raw


def read_private(path: Path, *, missing_hint: str) -> bytes:
    """As `read_file`, and refuses a key file that others on the machine can read.

    Raises:
        StorageError: as `read_file`.
        IdentityError: KEY_FILE_OPEN.
    """
    raw = read_file(path, missing_hint=missing_hint)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise IdentityError(
            "KEY_FILE_OPEN",
            f"{path} has mode {mode:04o}: others can read it",
            f"run `chmod 600 {path}`, and ask who did",
        )
    return raw
