"""Masked uploads on disk: one file per context and node, whole chunks only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.store.private_files import FILE_MODE, private_folder, storage_error, sync_folder, write_all
from fedvlm_secure.types import Digest, NodeId, node_id


class FileSpool:
    """`rounds.storage.Spool` under one folder. An upload is `NODE.part` until `finish`, then `NODE.words`.

    Chunks are written as they come and made durable once, by `finish`: a power cut costs chunks, which the node sends
    again, never an upload that was acknowledged. Two threads may write two uploads, not the same one.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)

    def _path(self, ctx: Digest, node: NodeId, kind: str) -> Path:
        return self._folder / ctx.hex() / f"{node_id(node)}.{kind}"

    def held_chunks(self, ctx: Digest, node: NodeId) -> int:
        """Chunks already held: where an upload resumes.

        A chunk that was cut by a crash is dropped. Of an unfinished upload the shorter last chunk is dropped too, since
        it cannot be told from a cut one.
        """
        whole = self._path(ctx, node, "words")
        if whole.exists():
            return -(-whole.stat().st_size // CHUNK_BYTES)
        part = self._path(ctx, node, "part")
        if not part.exists():
            return 0
        held = part.stat().st_size // CHUNK_BYTES
        os.truncate(part, held * CHUNK_BYTES)
        return held

    def append(self, ctx: Digest, node: NodeId, chunk: bytes) -> None:
        """Append one chunk: 1 MiB, or less if it is the last.

        Raises:
            ValueError: the chunk is empty or too long, the upload is finished, or a shorter chunk came before.
            StorageError: nothing of the chunk was kept.
        """
        part = self._path(ctx, node, "part")
        if not 0 < len(chunk) <= CHUNK_BYTES or self._path(ctx, node, "words").exists():
            raise ValueError("one chunk of at most 1 MiB is appended to an unfinished upload")
        private_folder(part.parent)
        size = 0
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
            try:
                size = os.fstat(handle).st_size
                if size % CHUNK_BYTES:
                    raise ValueError("only the last chunk of an upload is shorter than 1 MiB")
                write_all(handle, chunk)
            finally:
                os.close(handle)
        except OSError as error:
            if part.exists():
                os.truncate(part, size)
            raise storage_error(part, error, len(chunk)) from error

    def finish(self, ctx: Digest, node: NodeId) -> None:
        """Make a whole upload durable. Finishing a finished upload, or one without a word, does nothing.

        Raises:
            StorageError: it is not durable.
        """
        part = self._path(ctx, node, "part")
        if not part.exists():
            return
        try:
            handle = os.open(part, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(part, self._path(ctx, node, "words"))
            sync_folder(part.parent)
        except OSError as error:
            raise storage_error(part, error) from error

    def chunks(self, ctx: Digest, node: NodeId) -> Iterator[bytes]:
        """The chunks in order; none for an upload that is not held."""
        path = self._path(ctx, node, "words")
        if not path.exists():
            path = self._path(ctx, node, "part")
        if not path.exists():
            return
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def discard(self, ctx: Digest, node: NodeId | None = None) -> None:
        """Forget one upload of a context, or all of them."""
        if node is None:
            shutil.rmtree(self._folder / ctx.hex(), ignore_errors=True)
            return
        for kind in ("part", "words"):
            self._path(ctx, node, kind).unlink(missing_ok=True)
