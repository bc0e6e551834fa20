"""The hospital's privacy budget: reserved at plan, spent before an upload begins, never given back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.delta import require_delta
from fedvlm_secure.dp.events import Event
from fedvlm_secure.errors import BudgetExhausted, DataError, PolicyError
from fedvlm_secure.types import Digest, Entropy, Secret
from node.ledger_book import Book, Population, Run, Tally, has_unprotected, tally, untally
from node.ledger_chain import LedgerPaths
from node.ledger_entries import (
    Closed,
    LimitSet,
    Merged,
    PatientsBound,
    PopulationAdded,
    ReleasedUnprotected,
    Reserved,
    Spent,
)
from node.ledger_file import LedgerFile, LedgerHead, WallClock, create_ledger_file


@dataclass(frozen=True)
class Balance:
    """A population's purse. Epsilons are of everything together at the operator's own delta, never sums of epsilons.

    Attributes:
        patients: how many patients are bound; shown at the hospital only.
        spent: epsilon of what was released.
        committed: epsilon of what was released and of what open runs reserved.
        remaining: limit less `committed`, at least 0. For reading: two releases of half of it cost less than all of it.
        unprotected: a run without formal protection trained on these patients, at any time.
    """

    population: str
    patients: int
    delta: float
    limit: float
    spent: float
    committed: float
    remaining: float
    unprotected: bool
    event: Event


class Ledger:
    """An opened ledger: every call locks it, catches up with other processes and is durable.

    Raises:
        StorageError: LEDGER_MISSING, LEDGER_TAMPERED, LEDGER_ROLLED_BACK, LEDGER_CLOCK, or an I/O error; so does
            every method. A ledger that is in doubt covers nothing.
    """

    def __init__(self, paths: LedgerPaths, wall_s: WallClock) -> None:
        self.paths = paths
        self._file = LedgerFile(paths, wall_s)
        with self._file.current():
            pass

    @classmethod
    def create(cls, paths: LedgerPaths, entropy: Entropy, wall_s: WallClock) -> Ledger:
        """Open a hospital's first ledger.

        Raises:
            StorageError: LEDGER_EXISTS where key, anchor or ledger of an earlier one are found.
        """
        create_ledger_file(paths, entropy, wall_s)
        return cls(paths, wall_s)

    @property
    def key(self) -> Secret:
        """For `patient_hashes`."""
        return self._file.key

    @property
    def head(self) -> LedgerHead:
        """For the peers' records."""
        with self._file.current():
            return self._file.head

    def populations(self) -> tuple[str, ...]:
        """Names of the open populations, sorted."""
        with self._file.current() as book:
            return tuple(sorted(name for name, each in book.populations.items() if each.merged_into is None))

    def add_population(self, name: str, *, delta: float, epsilon_limit: float) -> None:
        """Open a purse with the operator's delta and limit.

        Raises:
            PolicyError: POPULATION_EXISTS, LIMIT_RANGE, DELTA_MISSING.
        """
        _require_limit(epsilon_limit)
        require_delta(delta, 1)
        with self._file.current() as book:
            if name in book.populations:
                raise PolicyError("POPULATION_EXISTS", f"population {name} exists already", "choose another name")
            self._file.write(PopulationAdded(name, delta, epsilon_limit))

    def set_limit(self, name: str, epsilon_limit: float) -> None:
        """The operator's decision; no policy can take it.

        Raises:
            PolicyError: LIMIT_RANGE, POPULATION_UNKNOWN.
        """
        _require_limit(epsilon_limit)
        with self._file.current() as book:
            _population(book, name)
            self._file.write(LimitSet(name, epsilon_limit))

    def bind_patients(self, name: str, hashes: set[bytes]) -> str | None:
        """Patients of a data set (`patient_hashes`) belong to this population from now on.

        Returns:
            A warning where delta is above 1 / (10 N), else None.

        Raises:
            DataError: PATIENTS_SHARED: another population holds some of them; nothing was bound.
            PolicyError: POPULATION_UNKNOWN, DELTA_TOO_LARGE for this many patients.
        """
        with self._file.current() as book:
            population = _population(book, name)
            if owner := book.owner_of(hashes, name):
                raise DataError(
                    "PATIENTS_SHARED",
                    f"{owner[1]} patients of this data set belong to population {owner[0]}, not to {name}",
                    f"train under {owner[0]}, or merge the two with `fedvlm-node ledger merge`",
                )
            new = hashes - population.patients
            warning = require_delta(population.delta, max(1, len(population.patients | hashes)))
            if new:
                self._file.write(PatientsBound(name, b"".join(sorted(new))))
            return warning

    def merge(self, source: str, target: str) -> None:
        """Make one population of two: patients together, charges added, the lower limit and delta.

        Raises:
            PolicyError: POPULATION_UNKNOWN, or both are the same.
        """
        with self._file.current() as book:
            _population(book, source)
            _population(book, target)
            if source == target:
                raise PolicyError("POPULATION_EXISTS", f"{source} cannot be merged with itself", "name two populations")
            self._file.write(Merged(source, target))

    def reserve(self, run: Digest, name: str, event: Event) -> None:
        """Set aside everything a run will release. The same call again does nothing.

        Raises:
            BudgetExhausted: BUDGET_EXHAUSTED with what is there and what is asked for; nothing was set aside.
            PolicyError: POPULATION_UNKNOWN, RUN_CONFLICT.
        """
        with self._file.current() as book:
            population = _population(book, name)
            known = book.runs.get(run)
            if known is not None:
                if known.closed or (known.population, known.planned) != (name, tally(event)):
                    raise _conflict(run, "it reserved something else, or is closed")
                return
            if has_unprotected(event):
                raise ValueError("an unprotected run is recorded by record_unprotected, not reserved")
            wanted = population.spent + book.reserved(name) + tally(event)
            _require_covered(name, population, wanted, "this run with what is spent and reserved")
            self._file.write(Reserved(bytes(run), name, event))

    def covers(self, run: Digest, event: Event) -> bool:
        """Whether `spend` would succeed for one more round: asked before training."""
        with self._file.current() as book:
            known = book.runs.get(run)
            if known is None or known.closed or tally(event) - known.left:
                return False
            population = book.populations[known.population]
            return _epsilon(population.spent + tally(event), population.delta) <= population.epsilon_limit

    def spend(self, run: Digest, round_number: int, event: Event) -> bool:
        """Charge a round, once, before the first byte of its first upload leaves. Durable and anchored on return.

        Returns:
            False if this round was charged before with the same event (a later attempt re-masks the same integers).

        Raises:
            BudgetExhausted: BUDGET_EXHAUSTED: more than was reserved, or above the limit as it stands now.
            PolicyError: RUN_CONFLICT: not reserved, closed, or this round was charged with another event.
        """
        with self._file.current() as book:
            known = book.runs.get(run)
            if known is None:
                raise _conflict(run, "it reserved nothing")
            if round_number in known.rounds:
                if tally(known.rounds[round_number]) != tally(event):
                    raise _conflict(run, f"round {round_number} was charged with another event")
                return False
            if known.closed:
                raise _conflict(run, "it is closed")
            self._require_reserved(known, round_number, event)
            population = book.populations[known.population]
            wanted = population.spent + tally(event)
            _require_covered(known.population, population, wanted, f"round {round_number} with what is spent")
            self._file.write(Spent(bytes(run), round_number, event))
            return True

    def charged(self, run: Digest, round_number: int) -> Event | None:
        """What a round was charged with; None if it was not."""
        with self._file.current() as book:
            known = book.runs.get(run)
            return None if known is None else known.rounds.get(round_number)

    def close_run(self, run: Digest) -> None:
        """Free what a run reserved and did not spend. Charges stay. A second call does nothing."""
        with self._file.current() as book:
            known = book.runs.get(run)
            if known is not None and not known.closed:
                self._file.write(Closed(bytes(run)))

    def record_unprotected(self, run: Digest, name: str) -> None:
        """A run without formal protection is about to train on this population: shown for ever.

        Raises:
            PolicyError: POPULATION_UNKNOWN.
        """
        with self._file.current() as book:
            _population(book, name)
            self._file.write(ReleasedUnprotected(bytes(run), name))

    def balance(self, name: str) -> Balance:
        """What is spent and left.

        Raises:
            PolicyError: POPULATION_UNKNOWN.
        """
        with self._file.current() as book:
            population = _population(book, name)
            spent, reserved = population.spent.copy(), book.reserved(name)
        committed = _epsilon(spent + reserved, population.delta)
        return Balance(
            population=name,
            patients=len(population.patients),
            delta=population.delta,
            limit=population.epsilon_limit,
            spent=_epsilon(spent, population.delta),
            committed=committed,
            remaining=max(0.0, population.epsilon_limit - committed),
            unprotected=population.unprotected,
            event=untally(spent),
        )

    @staticmethod
    def _require_reserved(run: Run, round_number: int, event: Event) -> None:
        if tally(event) - run.left:
            raise BudgetExhausted(
                "BUDGET_EXHAUSTED",
                f"round {round_number} would release more than this run has reserved and not yet spent",
                "the run must reserve its whole plan first",
            )


def _epsilon(spent: Tally, delta: float) -> float:
    return epsilon(untally(spent), delta)


def _population(book: Book, name: str) -> Population:
    population = book.populations.get(name)
    if population is None:
        raise PolicyError("POPULATION_UNKNOWN", f"no population {name!r} here", "add it with `fedvlm-node ledger add`")
    if population.merged_into is not None:
        raise PolicyError(
            "POPULATION_UNKNOWN", f"population {name} was merged into {population.merged_into}", "use that one"
        )
    return population


def _require_covered(name: str, population: Population, wanted: Tally, what: str) -> None:
    needed = _epsilon(wanted, population.delta)
    if needed > population.epsilon_limit:
        raise BudgetExhausted(
            "BUDGET_EXHAUSTED",
            f"population {name}: {what} comes to epsilon {needed!r}, above the limit of {population.epsilon_limit!r}",
            "leave this run, plan a smaller one, or let the operator decide on `fedvlm-node ledger limit`",
        )


def _require_limit(epsilon_limit: float) -> None:
    if not (math.isfinite(epsilon_limit) and epsilon_limit >= 0):
        raise PolicyError("LIMIT_RANGE", f"a limit on epsilon is finite and >= 0, got {epsilon_limit}", "such as 8")


def _conflict(run: Digest, cause: str) -> PolicyError:
    return PolicyError("RUN_CONFLICT", f"run {run.hex()[:16]}: {cause}", "approve the policy again for a new run")
