"""The coordinator's wish to end the run, in a file that the service looks at between two steps.

HOME/abort.json
"""

from __future__ import annotations

from pathlib import Path

from fedvlm_secure.errors import StorageError
from fedvlm_secure.policy.private_file import write_private


class AbortRequest:
    """Args:
    home: the aggregator's folder.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "abort.json"

    @property
    def made(self) -> bool:
        """Whether somebody asked."""
        return self._path.exists()

    def make(self, text: str) -> None:
        """Ask.

        Raises:
            StorageError: the file cannot be written.
        """
        write_private(self._path, (text + "\n").encode("utf-8"))

    def clear(self) -> None:
        """It was carried out.

        Raises:
            StorageError: FILE_UNWRITABLE.
        """
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError("FILE_UNWRITABLE", f"{self._path}: {error.strerror}", "check the folder") from error
