"""What a ledger can say: one frozen record per kind of entry, chained by hash."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fedvlm_secure import canonical
from fedvlm_secure.dp.events import Event, from_record, to_record
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.types import DIGEST_BYTES, Digest

GENESIS = Digest(bytes(DIGEST_BYTES))


@dataclass(frozen=True)
class Opened:
    """First entry: 16 random bytes that tell this ledger from every other one."""

    ledger: bytes


@dataclass(frozen=True)
class PopulationAdded:
    """A population of patients with the operator's own delta and limit on epsilon."""

    population: str
    delta: float
    epsilon_limit: float


@dataclass(frozen=True)
class PatientsBound:
    """Keyed hashes of patients (32 bytes each, joined, sorted) that from now on belong to the population."""

    population: str
    hashes: bytes


@dataclass(frozen=True)
class LimitSet:
    """The operator changed the limit."""

    population: str
    epsilon_limit: float


@dataclass(frozen=True)
class Reserved:
    """A run was planned that releases `event` in all."""

    run: bytes
    population: str
    event: Event


@dataclass(frozen=True)
class Spent:
    """A round's upload may begin: `event` is released, whatever becomes of it."""

    run: bytes
    round: int
    event: Event


@dataclass(frozen=True)
class Closed:
    """A run is over: what it reserved and did not spend is free again."""

    run: bytes


@dataclass(frozen=True)
class ReleasedUnprotected:
    """A run without formal protection trained on this population. Nothing takes this back."""

    run: bytes
    population: str


@dataclass(frozen=True)
class Merged:
    """Patients and charges of `source` now belong to `target`; `source` is closed."""

    source: str
    target: str


@dataclass(frozen=True)
class Floor:
    """What a population is charged at least after a restore."""

    population: str
    delta: float
    epsilon_limit: float
    event: Event
    unprotected: bool


@dataclass(frozen=True)
class Restored:
    """An older copy was taken back into use; its sequence number jumps past every known head."""

    floors: tuple[Floor, ...]


Body = (
    Opened
    | PopulationAdded
    | PatientsBound
    | LimitSet
    | Reserved
    | Spent
    | Closed
    | ReleasedUnprotected
    | Merged
    | Restored
)
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        *(Opened, PopulationAdded, PatientsBound, LimitSet, Reserved),
        *(Spent, Closed, ReleasedUnprotected, Merged, Restored),
    )
}


@dataclass(frozen=True)
class Entry:
    """One link: number (from 1), hash of the entry before, wall-clock seconds, and what is said."""

    sequence: int
    previous: Digest
    at_s: int
    body: Body

    def to_bytes(self) -> bytes:
        """Canonical; what is stored and hashed."""
        body = {"kind": type(self.body).__name__, "fields": _plain(self.body)}
        return canonical.encode([self.sequence, bytes(self.previous), self.at_s, body])

    @property
    def digest(self) -> Digest:
        return entry_digest(self.to_bytes())


def entry_digest(raw: bytes) -> Digest:
    """Hash of a stored entry: the `previous` of the next one, and the head while there is none."""
    return canonical.digest("ledger-entry", raw)


def parse_entry(raw: bytes) -> Entry:
    """Inverse of `Entry.to_bytes`.

    Raises:
        ValueError: not an entry.
    """
    try:
        sequence, previous, at_s, body = canonical.decode(raw)
        fields: dict[str, Any] = body["fields"]
        kind = _KINDS[body["kind"]]
        if kind is Restored:
            floors = tuple(Floor(**{**floor, "event": from_record(floor["event"])}) for floor in fields["floors"])
            return Entry(sequence, Digest(previous), at_s, Restored(floors))
        if "event" in fields:
            fields = {**fields, "event": from_record(fields["event"])}
        return Entry(sequence, Digest(previous), at_s, kind(**fields))
    except (KeyError, TypeError, FedvlmError) as error:
        raise ValueError("not a ledger entry") from error


def _plain(body: Body | Floor) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(body):
        value = getattr(body, field.name)
        if field.name == "event":
            plain[field.name] = to_record(value)
        elif field.name == "floors":
            plain[field.name] = [_plain(floor) for floor in value]
        else:
            plain[field.name] = value
    return plain
