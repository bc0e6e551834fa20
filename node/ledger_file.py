"""The ledger's file as one thing that is current, checked and locked whenever it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.errors import StorageError
from fedvlm_secure.policy.private_file import make_private_folder, read_private, write_private
from fedvlm_secure.types import Digest, Entropy, Secret
from node.ledger_anchor import anchor_of, read_anchor, write_anchor
from node.ledger_book import Book
from node.ledger_chain import (
    LedgerPaths,
    append_entries,
    create_chain,
    exclusive,
    holds_entry,
    missing,
    read_chain,
    rolled_back,
    tampered,
)
from node.ledger_entries import GENESIS, Body, Entry, Opened, Restored

CLOCK_TOLERANCE_S = 300
_KEY_BYTES = 32

WallClock = Callable[[], int]
"""Seconds since 1970, UTC."""


class LedgerFile:
    """The book behind a lock. Every look catches up with other processes and is checked against the anchor.

    Args:
        paths: where it lives.
        wall_s: the wall clock; it orders nothing, but a clock that went back by more than five minutes is refused.

    Raises:
        StorageError: LEDGER_MISSING, LEDGER_TAMPERED, LEDGER_ROLLED_BACK, or an I/O error.
    """

    def __init__(self, paths: LedgerPaths, wall_s: WallClock) -> None:
        self._paths = paths
        self._wall_s = wall_s
        self.key = read_key(paths)
        self._forget()

    @contextmanager
    def current(self) -> Iterator[Book]:
        """The book as it is on disk now; the lock is held until the block is left.

        Raises:
            StorageError: as the class: a ledger in doubt covers nothing.
        """
        with exclusive(self._paths):
            self._catch_up()
            yield self._book

    @property
    def head(self) -> LedgerHead:
        """Of the book last seen."""
        return LedgerHead(self._sequence, self._head)

    def holds(self, head: LedgerHead) -> bool:
        """Whether this ledger came after that head: the entry is in it, or a restore that stands above it.

        To be called inside `current`.
        """
        return head.sequence < self._restored or holds_entry(self._paths.ledger, head.sequence, head.digest)

    def write(self, body: Body) -> None:
        """Append one entry and move the anchor; to be called inside `current`. Durable on return.

        If only the anchor could not be written, the entry stands and the next look moves the anchor.

        Raises:
            StorageError: LEDGER_CLOCK, or an I/O error.
            ValueError: the entry cannot follow what is there.
        """
        now = self._wall_s()
        if now < self._at_s - CLOCK_TOLERANCE_S:
            raise StorageError(
                "LEDGER_CLOCK",
                f"the clock stands {self._at_s - now} seconds before the ledger's last entry",
                "set the clock; nothing was written",
            )
        entry = Entry(self._sequence + 1, self._head, max(now, self._at_s), body)
        append_entries(self._paths.ledger, [entry])
        self._take(entry, entry.digest)
        self._move_anchor()

    def _forget(self) -> None:
        self._book = Book()
        self._sequence, self._head, self._at_s = 0, GENESIS, 0
        self._restored = 0

    def _catch_up(self) -> None:
        anchor = read_anchor(self._paths.anchor, self.key)
        if not self._paths.ledger.exists():
            raise missing(self._paths.ledger)
        if anchor is None:
            raise tampered(self._paths.anchor, "the anchor is missing")
        if self._sequence > anchor.sequence or not holds_entry(self._paths.ledger, self._sequence, self._head):
            self._forget()  # not what was read before: judge the whole chain again
        anchored = self._head if self._sequence == anchor.sequence else None
        for entry, digest in read_chain(self._paths.ledger, self._sequence, self._head):
            self._take(entry, digest)
            if self._sequence == anchor.sequence:
                anchored = digest
        if self._sequence < anchor.sequence:
            self._reject(rolled_back(self._paths.ledger, self._sequence, anchor.sequence))
        if anchored != anchor.head:
            self._reject(tampered(self._paths.ledger, f"entry {anchor.sequence} is not the one that was anchored"))
        if self._sequence > anchor.sequence:  # a crash between commit and anchor
            self._move_anchor()

    def _reject(self, error: StorageError) -> None:
        self._forget()
        raise error

    def _take(self, entry: Entry, digest: Digest) -> None:
        try:
            self._book.apply(entry.body)
        except ValueError as error:
            self._forget()
            raise tampered(self._paths.ledger, f"entry {entry.sequence} contradicts those before it") from error
        self._sequence, self._head, self._at_s = entry.sequence, digest, entry.at_s
        if isinstance(entry.body, Restored):
            self._restored = entry.sequence

    def _move_anchor(self) -> None:
        write_anchor(self._paths.anchor, anchor_of(self._book, self._sequence, self._head), self.key)


def create_ledger_file(paths: LedgerPaths, entropy: Entropy, wall_s: WallClock) -> None:
    """Make key, ledger and anchor of a hospital that has none.

    Raises:
        StorageError: LEDGER_EXISTS where any of the three is found.
    """
    for path in (paths.ledger, paths.anchor, paths.key):
        if path.exists():
            raise StorageError(
                "LEDGER_EXISTS", f"{path} exists already", "a ledger is opened once; a lost one is restored"
            )
    make_private_folder(paths.key.parent)
    key = Secret(entropy.bytes(_KEY_BYTES))
    with exclusive(paths):
        write_private(paths.key, key.reveal(), fresh=True)
        first = start_chain(paths, entropy, wall_s)
        book = Book()
        book.apply(first.body)
        write_anchor(paths.anchor, anchor_of(book, first.sequence, first.digest), key)


def start_chain(paths: LedgerPaths, entropy: Entropy, wall_s: WallClock) -> Entry:
    """An empty ledger with its first entry, no anchor yet; the lock is held.

    Raises:
        StorageError: LEDGER_EXISTS, or an I/O error.
    """
    create_chain(paths.ledger)
    opened = Entry(1, GENESIS, wall_s(), Opened(entropy.bytes(16)))
    append_entries(paths.ledger, [opened])
    return opened


def read_key(paths: LedgerPaths) -> Secret:
    """The ledger's key.

    Raises:
        StorageError: FILE_MISSING, LEDGER_TAMPERED (wrong length).
        IdentityError: KEY_FILE_OPEN: others can read it.
    """
    if not paths.key.exists():
        raise missing(paths.key)
    raw = read_private(paths.key, missing_hint="")
    if len(raw) != _KEY_BYTES:
        raise tampered(paths.key, "it is not a ledger key")
    return Secret(raw)
