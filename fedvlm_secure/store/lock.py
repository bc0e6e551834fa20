"""One process per state: a second one on the same folder is turned away."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from fedvlm_secure.errors import StorageError
from fedvlm_secure.store.private_files import FILE_MODE, private_folder, storage_error


class StateLock:
    """An advisory lock on `folder/lock`, let go by `release` or by the death of the process, however it dies.

    Raises:
        StorageError: STATE_IN_USE, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        path = private_folder(folder) / "lock"
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE)
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise storage_error(path, error) from error
            raise StorageError(
                "STATE_IN_USE",
                f"{folder} is in use by another process",
                "stop the other process; two on one state could sign twice",
            ) from None

    def release(self) -> None:
        """Let go. A second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
