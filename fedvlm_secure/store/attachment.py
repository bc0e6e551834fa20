"""An attachment on its way to a node: chunks on disk in a file without a name, which goes when nobody holds it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fedvlm_secure.secagg.merkle import CHUNK_BYTES, leaf_hash, tree_root
from fedvlm_secure.store.large_values import damaged
from fedvlm_secure.store.private_files import private_folder, storage_error, write_all
from fedvlm_secure.types import Digest


class FileAttachment:
    """`rounds.vectors.StoredVector` that grows by chunks. Memory is a chunk, whatever its size.

    Nothing of it outlives the process: after a restart the aggregator offers the attachment again.

    Args:
        folder: on the disk that is to hold it.

    Raises:
        StorageError: the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        self._leaves: list[Digest] = []
        self._size = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  # closed with this object
        except OSError as error:
            raise storage_error(folder, error, CHUNK_BYTES) from error

    @property
    def size_bytes(self) -> int:
        return self._size

    @property
    def chunks(self) -> int:
        """Chunks held: the index of the next one."""
        return len(self._leaves)

    @property
    def is_open(self) -> bool:
        """Whether another chunk may follow: all so far have 1 MiB."""
        return self._size % CHUNK_BYTES == 0

    @property
    def root(self) -> Digest:
        """Tree root over the chunks so far (of nothing: over one empty chunk)."""
        return tree_root(self._leaves or [leaf_hash(b"")])

    def append(self, chunk: bytes) -> None:
        """Write one chunk: 1 MiB, or less if it is the last.

        Raises:
            ValueError: the chunk is empty or too long, or a shorter one came before.
            StorageError: it is not held.
        """
        if not 0 < len(chunk) <= CHUNK_BYTES or not self.is_open:
            raise ValueError("chunks have 1 MiB, only the last one may be shorter")
        try:
            os.lseek(self._file.fileno(), self._size, os.SEEK_SET)  # a write that was cut is written over
            write_all(self._file.fileno(), chunk)
        except OSError as error:
            raise storage_error(self._folder, error, len(chunk)) from error
        self._size += len(chunk)
        self._leaves.append(leaf_hash(chunk))

    def chunk(self, index: int) -> bytes | None:
        """Chunk `index` (from 0), checked against its hash; None past the end.

        Raises:
            StorageError: STATE_CORRUPT, the disk gives back something else than was written.
        """
        if not 0 <= index < len(self._leaves):
            return None
        size = min(CHUNK_BYTES, self._size - index * CHUNK_BYTES)
        try:
            content = os.pread(self._file.fileno(), size, index * CHUNK_BYTES)
        except OSError as error:
            raise storage_error(self._folder, error) from error
        if leaf_hash(content) != self._leaves[index]:
            raise damaged(self._folder)
        return content
