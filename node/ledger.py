"""The hospital's privacy budget: reserved at plan, spent before an upload begins, never given back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedvlm_secure.audit.facts import LedgerHead
from fedvlm_secure.dp.delta import require_delta
from fedvlm_secure.dp.events import Event
from fedvlm_secure.errors import DataError, PolicyError
from fedvlm_secure.types import Digest, Entropy, Secret
from node.ledger_book import has_unprotected, tally, untally
from node.ledger_chain import LedgerPaths
from node.ledger_checks import (
    checked_decision,
    epsilon_of,
    open_population,
    require_covered,
    require_reserved,
    run_conflict,
)
from node.ledger_consent import Decision, decision_digest, needed
from node.ledger_entries import (
    Closed,
    Consent,
    LimitSet,
    Merged,
    Operator,
    PatientsBound,
    PatientsWithdrawn,
    PopulationAdded,
    ReleasedUnprotected,
    Reserved,
    Spent,
)
from node.ledger_file import LedgerFile, WallClock, create_ledger_file


@dataclass(frozen=True)
class Balance:
    """A population's purse. Epsilons are of everything together at the operator's own delta, never sums of epsilons.

    Attributes:
        patients: how many patients are bound; shown at the hospital only, as `withdrawn` is.
        withdrawn: how many of them train no more.
        spent: epsilon of what was released.
        committed: epsilon of what was released and of what open runs reserved.
        remaining: limit less `committed`, at least 0. For reading: two releases of half of it cost less than all of it.
        unprotected: a run without formal protection trained on these patients, at any time.
    """

    population: str
    patients: int
    withdrawn: int
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
        """For the signed records."""
        with self._file.current():
            return self._file.head

    def holds(self, head: LedgerHead) -> bool:
        """Whether this ledger came after that head; if not, it was set back, replaced, or forked before it."""
        with self._file.current():
            return self._file.holds(head)

    def populations(self) -> tuple[str, ...]:
        """Names of the open populations, sorted."""
        with self._file.current() as book:
            return tuple(sorted(name for name, each in book.populations.items() if each.merged_into is None))

    def add_population(
        self, name: str, *, delta: float, epsilon_limit: float, consents: Sequence[Consent] = ()
    ) -> None:
        """Open a purse with the operator's delta and limit.

        Raises:
            PolicyError: POPULATION_EXISTS, LIMIT_RANGE, DELTA_MISSING, OPERATOR_NEEDED, CONSENT_INVALID.
        """
        self.decide(PopulationAdded(name, delta, epsilon_limit, tuple(consents)))

    def set_limit(self, name: str, epsilon_limit: float, consents: Sequence[Consent] = ()) -> None:
        """The operator's decision, or two operators'; no policy can take it.

        Raises:
            PolicyError: LIMIT_RANGE, POPULATION_UNKNOWN, OPERATOR_NEEDED, CONSENT_INVALID.
        """
        self.decide(LimitSet(name, epsilon_limit, tuple(consents)))

    @property
    def operators(self) -> tuple[Operator, ...]:
        """The two who decide on limits together; nobody where one alone does."""
        with self._file.current() as book:
            return book.operators

    def to_sign(self, decision: Decision) -> tuple[Digest, int]:
        """What an operator signs for this decision as things stand now, and how many operators it takes.

        Raises:
            PolicyError: as `decide`, but for missing consents.
        """
        with self._file.current() as book:
            limit = checked_decision(book, decision)
            return decision_digest(decision, book.ledger, book.decisions), needed(decision, book.operators, limit)[1]

    def decide(self, decision: Decision) -> None:
        """Write a decision on a limit, or on who decides.

        Raises:
            PolicyError: LIMIT_RANGE, POPULATION_UNKNOWN, POPULATION_EXISTS, DELTA_MISSING, OPERATORS, OPERATOR_NEEDED,
                CONSENT_INVALID.
        """
        with self._file.current() as book:
            checked_decision(book, decision)
            book.require_consents(decision)
            self._file.write(decision)

    def bind_patients(self, name: str, hashes: set[bytes]) -> str | None:
        """Patients of a data set (`patient_hashes`) belong to this population from now on.

        Returns:
            A warning where delta is above 1 / (10 N), else None.

        Raises:
            DataError: PATIENTS_SHARED: another population holds some of them; nothing was bound.
            PolicyError: POPULATION_UNKNOWN, DELTA_TOO_LARGE for this many patients.
        """
        with self._file.current() as book:
            population = open_population(book, name)
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

    def withdraw_patients(self, name: str, hashes: set[bytes], *, ahead: bool = False) -> int:
        """Patients who take back their consent train in no later round. What they were charged stays charged.

        Args:
            hashes: their `patient_hashes`.
            ahead: also keep hashes that no data set of this population has held so far.

        Returns:
            How many are new; those withdrawn before are left as they are.

        Raises:
            PolicyError: POPULATION_UNKNOWN.
            DataError: PATIENT_UNKNOWN: one was never bound here; nothing was recorded.
        """
        with self._file.current() as book:
            population = open_population(book, name)
            if not ahead and (strangers := len(hashes - population.patients - population.withdrawn)):
                raise DataError(
                    "PATIENT_UNKNOWN",
                    f"{strangers} of {len(hashes)} ids are no patients that population {name} has trained on",
                    "check spelling and population; --ahead also records patients who were never in a data set",
                )
            if new := hashes - population.withdrawn:
                self._file.write(PatientsWithdrawn(name, b"".join(sorted(new))))
            return len(new)

    def withdrawn(self, name: str) -> frozenset[bytes]:
        """Keyed hashes of the patients who withdrew; of nobody where there is no such population."""
        with self._file.current() as book:
            return frozenset(open_population(book, name).withdrawn) if name in book.populations else frozenset()

    def open_runs(self) -> dict[Digest, str]:
        """Runs that hold a reservation, and their populations."""
        with self._file.current() as book:
            return {Digest(run): known.population for run, known in book.runs.items() if known.left}

    def merge(self, source: str, target: str) -> None:
        """Make one population of two: patients together, charges added, the lower limit and delta.

        Raises:
            PolicyError: POPULATION_UNKNOWN, or both are the same.
        """
        with self._file.current() as book:
            open_population(book, source)
            open_population(book, target)
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
            population = open_population(book, name)
            known = book.runs.get(run)
            if known is not None:
                if known.closed or (known.population, known.planned) != (name, tally(event)):
                    raise run_conflict(run, "it reserved something else, or is closed")
                return
            if has_unprotected(event):
                raise ValueError("an unprotected run is recorded by record_unprotected, not reserved")
            wanted = population.spent + book.reserved(name) + tally(event)
            require_covered(name, population, wanted, "this run with what is spent and reserved")
            self._file.write(Reserved(bytes(run), name, event))

    def covers(self, run: Digest, event: Event) -> bool:
        """Whether `spend` would succeed for one more round: asked before training."""
        with self._file.current() as book:
            known = book.runs.get(run)
            if known is None or known.closed or tally(event) - known.left:
                return False
            population = book.populations[known.population]
            return epsilon_of(population.spent + tally(event), population.delta) <= population.epsilon_limit

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
                raise run_conflict(run, "it reserved nothing")
            if round_number in known.rounds:
                if tally(known.rounds[round_number]) != tally(event):
                    raise run_conflict(run, f"round {round_number} was charged with another event")
                return False
            if known.closed:
                raise run_conflict(run, "it is closed")
            require_reserved(known, round_number, event)
            population = book.populations[known.population]
            wanted = population.spent + tally(event)
            require_covered(known.population, population, wanted, f"round {round_number} with what is spent")
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
            open_population(book, name)
            self._file.write(ReleasedUnprotected(bytes(run), name))

    def balance(self, name: str) -> Balance:
        """What is spent and left.

        Raises:
            PolicyError: POPULATION_UNKNOWN.
        """
        with self._file.current() as book:
            population = open_population(book, name)
            spent, reserved = population.spent.copy(), book.reserved(name)
        committed = epsilon_of(spent + reserved, population.delta)
        return Balance(
            population=name,
            patients=len(population.patients),
            withdrawn=len(population.withdrawn),
            delta=population.delta,
            limit=population.epsilon_limit,
            spent=epsilon_of(spent, population.delta),
            committed=committed,
            remaining=max(0.0, population.epsilon_limit - committed),
            unprotected=population.unprotected,
            event=untally(spent),
        )
