"""The ledger's meaning: populations, charges and reservations, folded from its entries. Stores and reads nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import Composed, Event, NonPrivate, SelfComposed, compose, to_record
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.types import DIGEST_BYTES
from node.ledger_consent import require_consents
from node.ledger_entries import (
    Body,
    Closed,
    LimitSet,
    Merged,
    Opened,
    Operator,
    OperatorsSet,
    PatientsBound,
    PatientsWithdrawn,
    PopulationAdded,
    ReleasedUnprotected,
    Reserved,
    Restored,
    Spent,
)

Tally = Counter[Event]
"""How often each indivisible event was released."""


def tally(event: Event) -> Tally:
    """Resolve composition; perturbed and basic events stay whole."""
    counts: Tally = Counter()

    def visit(part: Event, times: int) -> None:
        match part:
            case SelfComposed(inner, count):
                visit(inner, times * count)
            case Composed(events):
                for inner in events:
                    visit(inner, times)
            case _ if times:
                counts[part] += times

    visit(event, 1)
    return counts


def untally(counts: Tally) -> Event:
    """One event for a tally, the same for equal tallies."""
    ordered = sorted(counts.items(), key=lambda item: canonical.encode(to_record(item[0])))
    return compose(SelfComposed(event, count) for event, count in ordered if count > 0)


@dataclass
class Population:
    """A purse. `withdrawn` patients train no more; `merged_into` names the population that took it over."""

    delta: float
    epsilon_limit: float
    patients: set[bytes] = field(default_factory=set)
    withdrawn: set[bytes] = field(default_factory=set)
    spent: Tally = field(default_factory=Counter)
    unprotected: bool = False
    merged_into: str | None = None


@dataclass
class Run:
    """What a run may still release, and what each of its rounds released."""

    population: str
    planned: Tally
    rounds: dict[int, Event] = field(default_factory=dict)
    closed: bool = False

    @property
    def left(self) -> Tally:
        """Reserved and not yet spent; nothing once the run is closed."""
        if self.closed:
            return Counter()
        used: Tally = Counter()
        for event in self.rounds.values():
            used.update(tally(event))
        return self.planned - used


class Book:
    """State after a prefix of the entries.

    Attributes:
        operators: the two who decide on limits together; empty while one alone does.
        decisions: how many entries changed a limit or who decides: a consent holds for one of them.
    """

    def __init__(self) -> None:
        self.ledger = b""
        self.operators: tuple[Operator, ...] = ()
        self.decisions = 0
        self.populations: dict[str, Population] = {}
        self.runs: dict[bytes, Run] = {}

    def reserved(self, population: str) -> Tally:
        """What open runs may still release about a population."""
        total: Tally = Counter()
        for run in self.runs.values():
            if run.population == population:
                total.update(run.left)
        return total

    def owner_of(self, patients: set[bytes], but: str) -> tuple[str, int] | None:
        """Another population that holds some of these patients, and how many."""
        for name, population in self.populations.items():
            if name != but and population.merged_into is None and (shared := len(population.patients & patients)):
                return name, shared
        return None

    def require_consents(self, body: Body) -> None:
        """Refuse a decision that lacks an operator's consent.

        Raises:
            PolicyError: OPERATOR_NEEDED, CONSENT_INVALID.
        """
        if isinstance(body, LimitSet | PopulationAdded | OperatorsSet):
            known = self.populations.get(body.population) if isinstance(body, LimitSet) else None
            limit = 0.0 if known is None else known.epsilon_limit
            require_consents(body, self.operators, self.ledger, self.decisions, limit)

    def apply(self, body: Body) -> None:
        """Take one entry in.

        Raises:
            ValueError: the entry cannot follow what came before.
        """
        try:
            self.require_consents(body)
            self._apply(body)
        except KeyError as error:
            raise ValueError("the entry names what is not there") from error
        except PolicyError as error:
            raise ValueError(error.cause) from error
        if isinstance(body, LimitSet | PopulationAdded | OperatorsSet | Restored):
            self.decisions += 1

    def _apply(self, body: Body) -> None:
        match body:
            case Opened(ledger):
                if self.ledger:
                    raise ValueError("a ledger is opened once")
                self.ledger = ledger
            case PopulationAdded(name, delta, limit):
                if name in self.populations:
                    raise ValueError("the population is there")
                self.populations[name] = Population(delta, limit)
            case PatientsBound(name, hashes):
                self.populations[name].patients.update(split_hashes(hashes))
            case PatientsWithdrawn(name, hashes):
                self.populations[name].withdrawn.update(split_hashes(hashes))
            case LimitSet(name, limit):
                self.populations[name].epsilon_limit = limit
            case OperatorsSet(operators):
                self.operators = operators
            case Reserved(run, name, event):
                if run in self.runs or name not in self.populations:
                    raise ValueError("the run is there, or its population is not")
                self.runs[run] = Run(name, tally(event))
            case Spent(run, number, event):
                self._spend(self.runs[run], number, event)
            case Closed(run):
                self.runs[run].closed = True
            case ReleasedUnprotected(_, name):
                self.populations[name].unprotected = True
            case Merged(source, target):
                self._merge(source, target)
            case Restored():
                self._restore(body)

    def _spend(self, run: Run, number: int, event: Event) -> None:
        if number in run.rounds or run.closed or tally(event) - run.left:
            raise ValueError("the round is charged, or more than was reserved")
        run.rounds[number] = event
        self.populations[run.population].spent.update(tally(event))

    def _merge(self, source: str, target: str) -> None:
        old, new = self.populations[source], self.populations[target]
        new.patients |= old.patients
        new.withdrawn |= old.withdrawn
        new.spent.update(old.spent)  # a patient of both bears both
        new.unprotected |= old.unprotected
        new.epsilon_limit = min(new.epsilon_limit, old.epsilon_limit)
        new.delta = min(new.delta, old.delta)
        old.merged_into = target
        for run in self.runs.values():
            if run.population == source:
                run.population = target

    def _restore(self, restored: Restored) -> None:
        for run in self.runs.values():
            run.closed = True
        for floor in restored.floors:
            population = self.populations.setdefault(floor.population, Population(floor.delta, floor.epsilon_limit))
            population.spent |= tally(floor.event)  # per event the larger count
            population.unprotected |= floor.unprotected
            population.withdrawn |= split_hashes(floor.withdrawn)
        for known in restored.runs:
            run = self.runs.setdefault(known.run, Run(known.population, Counter(), closed=True))
            for charged in known.rounds:
                run.rounds.setdefault(charged.number, charged.event)
        self.operators = self.operators or restored.operators


def split_hashes(joined: bytes) -> set[bytes]:
    """Joined 32-byte hashes.

    Raises:
        ValueError: the length is no multiple of 32.
    """
    if len(joined) % DIGEST_BYTES:
        raise ValueError("patient hashes have 32 bytes each")
    return {joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)}


def has_unprotected(event: Event) -> bool:
    """Whether an event holds a release that no epsilon bounds."""
    return any(isinstance(part, NonPrivate) for part in tally(event))
