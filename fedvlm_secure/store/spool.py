"""Masked uploads on disk: one file per context and node, whole chunks only."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedvlm_secure.secagg.merkle import CHUNK_BYTES, leaf_hash
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
        self._leaves: dict[tuple[Digest, NodeId], list[Digest]] = {}  # by upload, hashed as its chunks came

    def _path(self, ctx: Digest, node: NodeId, kind: str) -> Path:
        return self._folder / ctx.hex() / f"{node_id(node)}.{kind}"

    def held_chunks(self, ctx: Digest, node: NodeId) -> int:
        """Chunks already held: where an upload resumes.

        A chunk that was cut by a crash is dropped. Of an unfinished upload the shorter last chunk is dropped too, since
        it cannot be told from a cut one.

        Raises:
            StorageError: the disk does not say.
        """
        whole, part = self._path(ctx, node, "words"), self._path(ctx, node, "part")
        try:
            if whole.exists():
                return -(-whole.stat().st_size // CHUNK_BYTES)
            if not part.exists():
                return 0
            held = part.stat().st_size // CHUNK_BYTES
            os.truncate(part, held * CHUNK_BYTES)
        except OSError as error:
            raise storage_error(part, error) from error
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
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
            try:
                size = os.fstat(handle).st_size
                if size % CHUNK_BYTES:
                    raise ValueError("only the last chunk of an upload is shorter than 1 MiB")
                _write_or_leave(handle, chunk, size)
            finally:
                os.close(handle)
        except OSError as error:
            raise storage_error(part, error, len(chunk)) from error
        leaves, index = self._leaves.setdefault((ctx, node), []), size // CHUNK_BYTES
        del leaves[index:]
        if len(leaves) == index:  # else it began before this process, and is read again in the end
            leaves.append(leaf_hash(chunk))

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
            for _ in range(0, path.stat().st_size, CHUNK_BYTES):
                yield file.read(CHUNK_BYTES)  # under no name: a reader that waits would keep its last chunk alive

    def hashed(self, ctx: Digest, node: NodeId) -> tuple[int, Sequence[Digest]]:
        """Bytes held, and the leaf hash of each chunk.

        Hashed as the chunks came, each in its upload's thread; only what came before a restart is read again.
        """
        known = self._leaves.get((ctx, node), [])
        paths = (self._path(ctx, node, kind) for kind in ("words", "part"))
        size = next((path.stat().st_size for path in paths if path.exists()), 0)
        if len(known) != -(-size // CHUNK_BYTES):
            known = [leaf_hash(chunk) for chunk in self.chunks(ctx, node)]
        return size, known

    def discard(self, ctx: Digest, node: NodeId | None = None) -> None:
        """Forget one upload of a context, or all of them."""
        for key in [key for key in self._leaves if key[0] == ctx and node in (None, key[1])]:
            self._leaves.pop(key, None)
        if node is None:
            shutil.rmtree(self._folder / ctx.hex(), ignore_errors=True)
            return
        for kind in ("part", "words"):
            self._path(ctx, node, kind).unlink(missing_ok=True)


def _write_or_leave(handle: int, chunk: bytes, size: int) -> None:
    """Append a chunk to a file of `size` bytes, or leave it as it was; a cut chunk is also dropped by `held_chunks`."""
    try:
        write_all(handle, chunk)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise
