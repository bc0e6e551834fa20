"""Attachments on disk, by tree root: sums and states that nodes download."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedvlm_secure.secagg.merkle import CHUNK_BYTES, leaf_hash, tree_root
from fedvlm_secure.store.private_files import private_folder, storage_error, take_name, write_draft
from fedvlm_secure.types import Digest

_SUFFIX, _DRAFT = ".blob", ".new.draft"


class FileBlobs:
    """`rounds.storage.Blobs` under one folder: a blob is there whole or not at all.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        (self._folder / _DRAFT).unlink(missing_ok=True)  # left by a crash

    def _path(self, root: Digest) -> Path:
        return self._folder / (root.hex() + _SUFFIX)

    def put(self, chunks: Iterable[bytes | memoryview]) -> Digest:
        """Store a content, chunk by chunk, under the tree root of its chunks; durable when it returns.

        Raises:
            StorageError: nothing was stored. So it is with whatever `chunks` raises.
        """
        leaves: list[Digest] = []

        def hashed() -> Iterator[bytes | memoryview]:
            for chunk in chunks:
                leaves.append(leaf_hash(chunk))
                yield chunk

        draft = self._folder / _DRAFT
        write_draft(draft, hashed())
        root = tree_root(leaves)
        take_name(draft, self._path(root))
        return root

    def chunk(self, root: Digest, index: int) -> bytes | None:
        """Chunk `index` (from 0) of a blob, or None past its end or without the blob; the rest is not read.

        Raises:
            StorageError: it is there and cannot be read.
        """
        path = self._path(root)
        try:
            return _chunk_of(path, index)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(path, error) from error

    def keep_only(self, roots: Sequence[Digest]) -> None:
        """Drop every other blob."""
        kept = {self._path(root) for root in roots}
        for path in self._folder.glob("*" + _SUFFIX):
            if path not in kept:
                path.unlink(missing_ok=True)


def _chunk_of(path: Path, index: int) -> bytes | None:
    handle = os.open(path, os.O_RDONLY)
    try:
        if not 0 <= index * CHUNK_BYTES < os.fstat(handle).st_size:  # an offset may be too large for the system
            return None
        return os.pread(handle, CHUNK_BYTES, index * CHUNK_BYTES) or None
    finally:
        os.close(handle)
