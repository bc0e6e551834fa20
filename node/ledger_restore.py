"""Back from an older copy, never below what anchor or peers have seen charged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedvlm_secure.dp.events import NonPrivate
from fedvlm_secure.errors import StorageError
from fedvlm_secure.types import Digest, Entropy, Secret
from node.ledger_anchor import Anchor, anchor_of, read_anchor, write_anchor
from node.ledger_book import Book, Tally, has_unprotected, tally, untally
from node.ledger_chain import LedgerPaths, append_entries, exclusive, read_chain, tampered
from node.ledger_entries import GENESIS, Entry, Floor, Restored
from node.ledger_file import LedgerHead, WallClock, read_key, start_chain


@dataclass(frozen=True)
class Witness:
    """A head of this ledger in a record that a peer signed, and what each population was charged by then.

    The caller has verified the signatures. A population's patients are in no record; they are bound again with the
    next data set.
    """

    head: LedgerHead
    floors: tuple[Floor, ...]


@dataclass
class _Copy:
    """The chain as it was found, to its last entry."""

    book: Book
    sequence: int
    head: Digest
    at_s: int
    digests: dict[int, Digest]


def restore(paths: LedgerPaths, witnesses: Sequence[Witness], entropy: Entropy, wall_s: WallClock) -> LedgerHead:
    """Take the ledger found at `paths` (or none) back into use with a `Restored` entry.

    Every population is charged, event by event, at least what copy, anchor and each witness say. Where one of them saw
    another history than the copy (a fork), both really happened and are added up. Without a readable anchor the copy's
    open reservations are charged in full, since rounds after the last witness may be missing. Every open run is closed.

    Args:
        paths: the key must be there: without it no patient could be recognised.
        witnesses: from the peers' signed records; may be empty only where the anchor is readable.

    Returns:
        The new head; its number is above every number seen.

    Raises:
        StorageError: RESTORE_UNPROVEN (neither witness nor anchor), LEDGER_TAMPERED (the copy is broken),
            LEDGER_MISSING (no key).
    """
    key = read_key(paths)
    with exclusive(paths):
        anchor = _readable_anchor(paths, key)
        if anchor is not None:
            witnesses = [*witnesses, Witness(LedgerHead(anchor.sequence, anchor.head), anchor.floors)]
        if not witnesses:
            raise StorageError(
                "RESTORE_UNPROVEN",
                "neither the anchor nor a peer's signed head says what was charged",
                "collect the audit records of the other hospitals first",
            )
        if not paths.ledger.exists():
            start_chain(paths, entropy, wall_s)  # the anchor stays what it is until the floors are written
        copy = _read_copy(paths)
        floors = _floors(copy, witnesses, charge_reserved=anchor is None)
        sequence = max(copy.sequence, *(witness.head.sequence for witness in witnesses)) + 1
        entry = Entry(sequence, copy.head, max(wall_s(), copy.at_s), Restored(floors))
        copy.book.apply(entry.body)
        append_entries(paths.ledger, [entry])
        write_anchor(paths.anchor, anchor_of(copy.book, sequence, entry.digest), key)
        return LedgerHead(sequence, entry.digest)


def _readable_anchor(paths: LedgerPaths, key: Secret) -> Anchor | None:
    try:
        return read_anchor(paths.anchor, key)
    except StorageError:
        return None  # an altered anchor proves nothing; then the peers have to


def _read_copy(paths: LedgerPaths) -> _Copy:
    copy = _Copy(Book(), 0, GENESIS, 0, {})
    for entry, digest in read_chain(paths.ledger, 0, GENESIS):
        try:
            copy.book.apply(entry.body)
        except ValueError as error:
            raise tampered(paths.ledger, f"entry {entry.sequence} contradicts those before it") from error
        copy.sequence, copy.head, copy.at_s = entry.sequence, digest, entry.at_s
        copy.digests[entry.sequence] = digest
    return copy


def _floors(copy: _Copy, witnesses: Sequence[Witness], *, charge_reserved: bool) -> tuple[Floor, ...]:
    """Per population: the larger of the copy's and its own history's counts, plus those of another history."""
    known: dict[str, Floor] = {}
    same: dict[str, Tally] = {}
    other: dict[str, Tally] = {}
    for name, population in copy.book.populations.items():
        if population.merged_into is None:
            same[name] = population.spent + (copy.book.reserved(name) if charge_reserved else Counter())
            known[name] = Floor(
                name, population.delta, population.epsilon_limit, untally(same[name]), population.unprotected
            )
    for witness in witnesses:
        history = other if _is_forked(copy, witness.head) else same
        for floor in witness.floors:
            name = _open_name(copy.book, floor.population)
            seen, unprotected = tally(floor.event), floor.unprotected or has_unprotected(floor.event)
            del seen[NonPrivate()]  # no epsilon holds it: it is a mark, not a charge
            history[name] = history.get(name, Counter()) | seen
            base = known.get(name, floor)
            known[name] = replace(base, unprotected=base.unprotected or unprotected)
    return tuple(
        replace(floor, population=name, event=untally(same.get(name, Counter()) + other.get(name, Counter())))
        for name, floor in sorted(known.items())
    )


def _is_forked(copy: _Copy, head: LedgerHead) -> bool:
    return head.sequence <= copy.sequence and copy.digests.get(head.sequence) != head.digest


def _open_name(book: Book, name: str) -> str:
    """The population that answers for this name now."""
    while (population := book.populations.get(name)) is not None and population.merged_into is not None:
        name = population.merged_into
    return name
