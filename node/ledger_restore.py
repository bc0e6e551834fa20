"""Back from an older copy, never below what anchor or peers have seen charged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.dp.events import Composed, NonPrivate
from fedvlm_secure.errors import StorageError
from fedvlm_secure.types import Digest, Entropy, Secret
from node.ledger_anchor import Anchor, anchor_of, read_anchor, write_anchor
from node.ledger_book import Book, Tally, has_unprotected, tally, untally
from node.ledger_chain import LedgerPaths, append_entries, exclusive, read_chain, tampered
from node.ledger_entries import GENESIS, Entry, Floor, Restored, RestoredRun
from node.ledger_file import WallClock, read_key, start_chain
from node.ledger_testimony import RunTestimony, Testimony


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


def known_populations(paths: LedgerPaths) -> tuple[set[str], dict[bytes, str]]:
    """Names of open populations, and the population of each run, as far as copy and anchor are left.

    Raises:
        StorageError: LEDGER_TAMPERED (the copy is broken), LEDGER_MISSING (no key).
    """
    anchor = _readable_anchor(paths, read_key(paths))
    names = {floor.population for floor in (anchor.floors if anchor is not None else ())}
    if not paths.ledger.exists():
        return names, {}
    book = _read_copy(paths).book
    names |= {name for name, each in book.populations.items() if each.merged_into is None}
    return names, {run: _open_name(book, known.population) for run, known in book.runs.items()}


def restore(
    paths: LedgerPaths,
    witnesses: Sequence[Witness],
    entropy: Entropy,
    wall_s: WallClock,
    testimony: Testimony | None = None,
) -> LedgerHead:
    """Take the ledger found at `paths` (or none) back into use with a `Restored` entry.

    Every population is charged, event by event, at least what copy, anchor, each witness and the testimony say. Where
    one of them saw another history than the copy (a fork), both really happened and are added up. Without a readable
    anchor the copy's open reservations are charged in full, since rounds after the last witness may be missing; not
    those of runs that own signed records show ended. Every open run is closed.

    Args:
        paths: the key must be there: without it no patient could be recognised.
        witnesses: heads from the peers' signed records.
        testimony: signed audit records. May be missing, as the witnesses may, only where the anchor is readable.

    Returns:
        The new head; its number is above every number seen.

    Raises:
        StorageError: RESTORE_UNPROVEN (neither witness nor testimony nor anchor), LEDGER_TAMPERED (the copy is
            broken), LEDGER_MISSING (no key).
    """
    key = read_key(paths)
    runs = testimony.runs if testimony is not None else ()
    with exclusive(paths):
        anchor = _readable_anchor(paths, key)
        if anchor is not None:
            witnesses = [*witnesses, Witness(LedgerHead(anchor.sequence, anchor.head), anchor.floors)]
        if not (witnesses or runs):
            raise StorageError(
                "RESTORE_UNPROVEN",
                "neither the anchor nor a signed record says what was charged",
                "collect the audit records of the other hospitals first",
            )
        if not paths.ledger.exists():
            start_chain(paths, entropy, wall_s)  # the anchor stays what it is until the floors are written
        copy = _read_copy(paths)
        floors = _floors(copy, witnesses, runs, charge_reserved=anchor is None)
        charged = tuple(
            replace(one.charged, population=_open_name(copy.book, one.population))
            for one in runs
            if one.charged is not None
        )
        named = (*(witness.head.sequence for witness in witnesses), *(one.sequence for one in runs))
        sequence = max(copy.sequence, *named, 0) + 1
        restored = Restored(floors, charged, () if anchor is None else anchor.operators)
        entry = Entry(sequence, copy.head, max(wall_s(), copy.at_s), restored)
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


def _floors(
    copy: _Copy, witnesses: Sequence[Witness], runs: Sequence[RunTestimony], *, charge_reserved: bool
) -> tuple[Floor, ...]:
    """Per population: the larger of the copy's and its own history's counts, plus those of another history."""
    known: dict[str, Floor] = {}
    same: dict[str, Tally] = {}
    other: dict[str, Tally] = {}
    ended = {one.run for one in runs if one.over}
    for name, population in copy.book.populations.items():
        if population.merged_into is None:
            same[name] = population.spent + (_reserved(copy.book, name, ended) if charge_reserved else Counter())
            known[name] = Floor(name, population.delta, population.epsilon_limit, Composed(()), population.unprotected)
    for one in runs:
        _add_missing(same, copy.book, one, reserved=charge_reserved and not one.over)
    seen_by = [(other if _is_forked(copy, witness.head) else same, witness.floors) for witness in witnesses]
    for history, floors in (*seen_by, (same, _purses(copy.book, runs))):
        for floor in floors:
            name = _open_name(copy.book, floor.population)
            seen, unprotected = tally(floor.event), floor.unprotected or has_unprotected(floor.event)
            del seen[NonPrivate()]  # no epsilon holds it: it is a mark, not a charge
            history[name] = history.get(name, Counter()) | seen
            base = known.get(name, floor)
            known[name] = replace(
                base, unprotected=base.unprotected or unprotected, withdrawn=base.withdrawn + floor.withdrawn
            )
    return tuple(
        replace(floor, population=name, event=untally(same.get(name, Counter()) + other.get(name, Counter())))
        for name, floor in sorted(known.items())
    )


def _reserved(book: Book, name: str, ended: Set[bytes]) -> Tally:
    total: Tally = Counter()
    for run, known in book.runs.items():
        if known.population == name and run not in ended:
            total.update(known.left)
    return total


def _add_missing(same: dict[str, Tally], book: Book, one: RunTestimony, *, reserved: bool) -> None:
    """Rounds on signed records that the copy does not know; what it holds as reserved has been charged already."""
    if one.charged is None:
        return
    name, known = _open_name(book, one.population), book.runs.get(one.run)
    missing = _unknown(book, one.charged, frozenset(each.number for each in one.charged.rounds))
    same[name] = same.get(name, Counter()) + (missing - known.left if known is not None and reserved else missing)


def _purses(book: Book, runs: Sequence[RunTestimony]) -> list[Floor]:
    """Each own record's purse, with the rounds that no own record covers: it may be older than they are."""
    later: dict[str, Tally] = {}
    for one in runs:
        if one.charged is not None:
            unknown = _unknown(book, one.charged, one.uncovered)
            later[one.population] = later.get(one.population, Counter()) + unknown
    return [
        replace(one.purse, event=untally(tally(one.purse.event) + later.get(one.population, Counter()))) for one in runs
    ]


def _unknown(book: Book, charged: RestoredRun, numbers: Set[int]) -> Tally:
    """What these rounds of a run were charged with, as far as the copy does not know them."""
    known = book.runs.get(charged.run)
    total: Tally = Counter()
    for each in charged.rounds:
        if each.number in numbers and (known is None or each.number not in known.rounds):
            total.update(tally(each.event))
    return total


def _is_forked(copy: _Copy, head: LedgerHead) -> bool:
    return head.sequence <= copy.sequence and copy.digests.get(head.sequence) != head.digest


def _open_name(book: Book, name: str) -> str:
    """The population that answers for this name now."""
    while (population := book.populations.get(name)) is not None and population.merged_into is not None:
        name = population.merged_into
    return name
