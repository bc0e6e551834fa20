"""Crash points of a simulated federation: a process dies at a named instant, its durable state stays as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedvlm_secure.rounds.purse import Charge, Purse
from fedvlm_secure.rounds.storage import Journal
from fedvlm_secure.rounds.vectors import Draft, Drafted, StoredVector
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import Digest, NodeId

AGGREGATOR = "aggregator"


class Crashed(BaseException):
    """The process of `party` is gone at this instant; no Exception, since nothing inside a process sees a SIGKILL."""

    def __init__(self, party: str, point: str) -> None:
        super().__init__(f"{party} killed {point}")
        self.party, self.point = party, point


class Crashes(Protocol):
    """Decides at every crash point."""

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        """The point at which `party` dies now; `points` name one instant: `before round/signed`, `after spend`, ..."""
        ...


@dataclass
class CrashAt:
    """`party` dies when it comes to `point` for the `nth` time (counted from 1), and never again."""

    party: str
    point: str
    nth: int = 1
    struck: bool = False
    _seen: int = 0

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        if self.struck or party != self.party or not any(point.startswith(self.point) for point in points):
            return None
        self._seen += 1
        self.struck = self._seen == self.nth
        return self.point if self.struck else None


class CrashesByChance:
    """Args:
    rng: seeded by the caller.
    rate: chance per crash point.
    most: so many in all, so that a run can end.
    """

    def __init__(self, rng: np.random.Generator, rate: float, most: int) -> None:
        self._rng, self._rate, self._left = rng, rate, most
        self.struck: list[tuple[str, str]] = []

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        if self._left == 0 or self._rng.random() >= self._rate:
            return None
        self._left -= 1
        point = next(iter(points))
        self.struck.append((party, point))
        return point


class CrashPoints:
    """Where one party's process may die.

    Args:
        party: a node's name or `AGGREGATOR`.
    """

    def __init__(self, party: str, crashes: Crashes) -> None:
        self._party, self._crashes = party, crashes

    def come_to(self, *points: str) -> None:
        """Raises:
        Crashed: the process dies here.
        """
        struck = self._crashes.strikes(self._party, points)
        if struck is not None:
            raise Crashed(self._party, struck)


class CrashingJournal:
    """A journal whose process may die right before or right after each commit; the commit itself is all or nothing."""

    def __init__(self, journal: Journal, points: CrashPoints) -> None:
        self.journal, self._points = journal, points

    def get(self, key: str) -> bytes | None:
        return self.journal.get(key)

    def keys(self, prefix: str) -> list[str]:
        return self.journal.keys(prefix)

    def draft(self) -> Draft:
        return self.journal.draft()

    def drafted(self, drafted: Drafted) -> StoredVector:
        return self.journal.drafted(drafted)

    def vector(self, key: str) -> StoredVector | None:
        return self.journal.vector(key)

    def commit(self, puts: Mapping[str, bytes | Drafted], deletes: Sequence[str] = ()) -> None:
        names = sorted(puts) or ["deletion"]
        self._points.come_to(*(f"before {name}" for name in names))
        self.journal.commit(puts, deletes)
        self._points.come_to(*(f"after {name}" for name in names))


class CrashingPurse:
    """A purse whose process may die right before or right after a charge."""

    def __init__(self, purse: Purse, points: CrashPoints) -> None:
        self.purse, self._points = purse, points

    def reserve(self, charge: Charge) -> None:
        self.purse.reserve(charge)

    def spend(self, charge: Charge) -> bool:
        self._points.come_to("before spend")
        fresh = self.purse.spend(charge)
        self._points.come_to("after spend")
        return fresh

    def close(self, run_hash: Digest) -> None:
        self.purse.close(run_hash)


def journal_of(party: str, crashes: Crashes | None) -> Journal:
    """An empty journal in memory, with crash points where there are crashes."""
    journal = MemoryJournal()
    return journal if crashes is None else CrashingJournal(journal, CrashPoints(party, crashes))


def purse_of(node: NodeId, purse: Purse, crashes: Crashes | None) -> Purse:
    """The purse, with crash points where there are crashes."""
    return purse if crashes is None else CrashingPurse(purse, CrashPoints(node, crashes))
