"""Values too large for a row: files beside the journal, written in chunks ahead of the commit that enters them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.canonical import decode, encode
from fedvlm_secure.errors import StorageError
from fedvlm_secure.rounds.vectors import Drafted
from fedvlm_secure.secagg.merkle import CHUNK_BYTES, leaf_hash, tree_root
from fedvlm_secure.store.private_files import FILE_MODE, overwrite, storage_error, sync_folder, write_all
from fedvlm_secure.types import DIGEST_BYTES, Digest

_PREFIX, _SUFFIX, _GONE = "value-", ".large", ".gone"
_IN_FLIGHT = 1


class LargeValues:
    """The files of one journal's folder. A file that no row names is overwritten and removed.

    Hashing and writing go on in one thread of their own beside what makes the chunks; at most `_IN_FLIGHT` chunks
    of a draft are held for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        numbers = (path.name.removeprefix(_PREFIX).split(".")[0] for path in self._files())
        first = 1 + max((int(number) for number in numbers if number.isdecimal()), default=0)
        self._numbers = itertools.count(first)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")

    def _files(self) -> list[Path]:
        return [path for suffix in (_SUFFIX, _GONE) for path in self._folder.glob(f"{_PREFIX}*{suffix}")]

    def draft(self) -> FileDraft:
        """Begin a value under a name that was never used before."""
        name = f"{_PREFIX}{next(self._numbers)}{_SUFFIX}"
        return FileDraft(self, self._folder / name, self._writer)

    def write(self, content: bytes) -> Drafted:
        """A whole value at once.

        Raises:
            StorageError: nothing is kept.
        """
        draft, view = self.draft(), memoryview(content)
        try:
            for at in range(0, len(view), CHUNK_BYTES):
                draft.append(view[at : at + CHUNK_BYTES])
            return draft.finish()
        except BaseException:
            draft.drop()
            raise

    def open(self, drafted: Drafted) -> FileVector:
        """A value to be read."""
        return FileVector(self._folder / drafted.name, drafted.size_bytes, drafted.leaves)

    def erase(self, names: Collection[str]) -> None:
        """Overwrite and remove these.

        Raises:
            StorageError: one could not be; the next start tries again.
        """
        for name in names:
            path = self._folder / name
            if path.exists():
                _overwrite(path)
        if names:
            _sync(self._folder)

    def keep_only(self, names: Collection[str]) -> None:
        """Erase what a crash left behind: drafts that were never entered, and values whose erasing was cut short."""
        self.erase([path.name for path in self._files() if path.name not in names])

    def close(self) -> None:
        """End the writing thread."""
        self._writer.shutdown(wait=True)


class FileDraft:
    """One value on its way to disk; see `rounds.vectors.Draft`."""

    def __init__(self, values: LargeValues, path: Path, writer: ThreadPoolExecutor) -> None:
        self._values, self._path, self._writer = values, path, writer
        self._size = 0
        self._waiting: list[Future[Digest]] = []
        self._leaves: list[Digest] = []
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        except OSError as error:
            raise storage_error(path, error, CHUNK_BYTES) from error

    def append(self, chunk: bytes | memoryview) -> None:
        """Write one chunk; the caller may change it afterwards."""
        if self._size % CHUNK_BYTES or not 0 < len(chunk) <= CHUNK_BYTES:
            raise ValueError("chunks have 1 MiB, only the last one may be shorter")
        self._size += len(chunk)
        while len(self._waiting) >= _IN_FLIGHT:
            self._leaves.append(self._waiting.pop(0).result())
        self._waiting.append(self._writer.submit(self._write, bytes(chunk)))

    def _write(self, chunk: bytes) -> Digest:
        try:
            write_all(self._handle, chunk)
        except OSError as error:
            raise storage_error(self._path, error, len(chunk)) from error
        return leaf_hash(chunk)

    def finish(self) -> Drafted:
        """Make it durable."""
        self._leaves += [done.result() for done in self._waiting]
        self._waiting = []
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise storage_error(self._path, error, self._size) from error
        self._close()
        _sync(self._path.parent)
        return Drafted(self._path.name, self._size, tuple(self._leaves))

    def drop(self) -> None:
        """Erase it."""
        for waiting in self._waiting:
            waiting.cancel()
        self._writer.submit(self._close).result()  # after the chunk that is being written
        self._values.erase([self._path.name])

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@dataclass(frozen=True)
class FileVector:
    """A value on disk; see `rounds.vectors.StoredVector`."""

    path: Path
    size_bytes: int
    leaves: tuple[Digest, ...]

    @property
    def root(self) -> Digest:
        return tree_root(self.leaves)

    def chunk(self, index: int) -> bytes | None:
        """One chunk, checked against the hash that the journal holds."""
        if not 0 <= index < len(self.leaves):
            return None
        try:
            handle = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            content = os.pread(handle, CHUNK_BYTES, index * CHUNK_BYTES)
        except OSError as error:
            raise storage_error(self.path, error) from error
        finally:
            os.close(handle)
        if leaf_hash(content) != self.leaves[index]:
            if not self.path.exists():  # it was being erased meanwhile
                return None
            raise damaged(self.path)
        return content


def damaged(path: Path) -> StorageError:
    """STATE_CORRUPT."""
    return StorageError(
        "STATE_CORRUPT",
        f"{path} is not what was committed",
        "restore nothing older: start with a fresh state folder, so that the next epoch takes this party in",
    )


def encode_drafted(drafted: Drafted) -> bytes:
    """What the journal's row holds of a large value."""
    return encode([drafted.name, drafted.size_bytes, b"".join(drafted.leaves)])


def decode_drafted(raw: bytes) -> Drafted:
    """Inverse of `encode_drafted`."""
    name, size_bytes, leaves = decode(raw)
    cut = range(0, len(leaves), DIGEST_BYTES)
    return Drafted(name, size_bytes, tuple(Digest(leaves[at : at + DIGEST_BYTES]) for at in cut))


def _sync(folder: Path) -> None:
    try:
        sync_folder(folder)
    except OSError as error:
        raise storage_error(folder, error) from error


def _overwrite(path: Path) -> None:
    """Overwrite and remove, under another name, so that who reads meanwhile does not take zeros for damage."""
    gone = path.with_suffix(_GONE)
    try:
        os.replace(path, gone)
        overwrite(gone)
        gone.unlink()
    except OSError as error:
        raise storage_error(path, error) from error
