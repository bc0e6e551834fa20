"""This hospital's own scores, round by round, in STATE/metrics.jsonl. The file is read here and never sent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from fedvlm_secure.store.private_files import FILE_MODE, private_folder, storage_error, write_all


class MetricsFile:
    """JSON lines, one per scored state of a run.

    Args:
        state: the node's folder.
    """

    def __init__(self, state: Path) -> None:
        self._path = private_folder(state) / "metrics.jsonl"

    def append(self, row: Mapping[str, object]) -> None:
        """Add one line, durable when it returns.

        Raises:
            StorageError: the line is not there.
        """
        line = json.dumps(dict(row)).encode() + b"\n"
        size = 0
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
            try:
                size = _drop_torn_line(handle)
                write_all(handle, line)
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
            finally:
                os.close(handle)
        except OSError as error:
            raise storage_error(self._path, error, len(line)) from error

    def rows(self) -> tuple[dict[str, object], ...]:
        """All lines; one that a crash cut is left out."""
        if not self._path.exists():
            return ()
        whole = self._path.read_bytes().rpartition(b"\n")[0]
        return tuple(json.loads(line) for line in whole.split(b"\n") if line)

    def has(self, run: str, round_number: int, *, last: bool) -> bool:
        """Whether this state was scored already, before a restart."""
        return any((row["run"], row["round"], row["last"]) == (run, round_number, last) for row in self.rows())


def _drop_torn_line(handle: int) -> int:
    """Cut what a crash left after the last line break; returns the file's size."""
    size = os.fstat(handle).st_size
    tail = os.pread(handle, min(size, 1 << 20), max(0, size - (1 << 20)))
    whole = size - len(tail) + tail.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(handle, whole)
    return whole
