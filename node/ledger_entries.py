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
class Operator:
    """Who has a say in limits: a name and an Ed25519 public key (32 bytes)."""

    name: str
    public: bytes


@dataclass(frozen=True)
class Consent:
    """One operator's signature (64 bytes) over a decision, see `ledger_consent`."""

    operator: str
    signature: bytes


@dataclass(frozen=True)
class PopulationAdded:
    """A population of patients with the operator's own delta and limit on epsilon."""

    population: str
    delta: float
    epsilon_limit: float
    consents: tuple[Consent, ...] = ()


@dataclass(frozen=True)
class PatientsBound:
    """Keyed hashes of patients (32 bytes each, joined, sorted) that from now on belong to the population."""

    population: str
    hashes: bytes


@dataclass(frozen=True)
class LimitSet:
    """The operator changed the limit, or two operators did."""

    population: str
    epsilon_limit: float
    consents: tuple[Consent, ...] = ()


@dataclass(frozen=True)
class OperatorsSet:
    """From now on these two decide on limits together; nobody in it: one operator alone again."""

    operators: tuple[Operator, ...]
    consents: tuple[Consent, ...] = ()


@dataclass(frozen=True)
class PatientsWithdrawn:
    """Keyed hashes of patients (32 bytes each, joined, sorted) who train in no later round. Charges stay."""

    population: str
    hashes: bytes


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
    """What a population is charged at least after a restore; `withdrawn` holds joined keyed hashes of patients."""

    population: str
    delta: float
    epsilon_limit: float
    event: Event
    unprotected: bool
    withdrawn: bytes = b""


@dataclass(frozen=True)
class RestoredRound:
    """A round, from 0, and what signed records show it charged with."""

    number: int
    event: Event


@dataclass(frozen=True)
class RestoredRun:
    """Charged rounds of a run on signed records; they are part of the floors."""

    run: bytes
    population: str
    rounds: tuple[RestoredRound, ...]


@dataclass(frozen=True)
class Restored:
    """An older copy was taken back into use; its sequence number jumps past every known head."""

    floors: tuple[Floor, ...]
    runs: tuple[RestoredRun, ...] = ()
    operators: tuple[Operator, ...] = ()


Body = (
    Opened
    | PopulationAdded
    | PatientsBound
    | PatientsWithdrawn
    | LimitSet
    | OperatorsSet
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
        *(Opened, PopulationAdded, PatientsBound, PatientsWithdrawn, LimitSet, OperatorsSet),
        *(Reserved, Spent, Closed, ReleasedUnprotected, Merged, Restored),
    )
}
_PARTS: dict[str, type[Any]] = {
    "consents": Consent,
    "operators": Operator,
    "floors": Floor,
    "runs": RestoredRun,
    "rounds": RestoredRound,
}
"""Fields that hold several records, by name."""
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bytes": (bytes,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
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
        body = {"kind": type(self.body).__name__, "fields": plain_fields(self.body)}
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
        entry = Entry(sequence, previous, at_s, from_plain(_KINDS[body["kind"]], body["fields"]))
    except (KeyError, TypeError, AttributeError, FedvlmError) as error:
        raise ValueError("not a ledger entry") from error
    numbers = type(sequence) is int and sequence >= 1 and type(at_s) is int
    if not numbers or not isinstance(previous, bytes) or len(previous) != DIGEST_BYTES:
        raise ValueError("not a ledger entry")
    return entry


def plain_fields(record: Any) -> dict[str, Any]:
    """A body or a part of one as plain values by field name."""
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def from_plain(kind: type[Any], fields: dict[str, Any]) -> Any:
    """Inverse of `plain_fields`; fields that an older version did not write get their defaults.

    Raises:
        KeyError, TypeError, AttributeError, FedvlmError: these are not the fields of `kind`.
    """
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "event":
            values[name] = from_record(value)
        elif name in _PARTS:
            values[name] = tuple(from_plain(_PARTS[name], part) for part in value)
        else:
            values[name] = value
    return _typed(kind(**values))


def _typed(record: Any) -> Any:
    """The record, once its plain fields hold what they declare: what an editor of the file makes up gets no further."""
    for field in dataclasses.fields(record):
        value, declared = getattr(record, field.name), str(field.type)  # annotations are text here
        if type(value) not in _PLAIN.get(declared, (type(value),)):
            raise TypeError(f"{type(record).__name__}.{field.name} is no {declared}")
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Event):
        return to_record(value)
    return plain_fields(value) if dataclasses.is_dataclass(value) else value
