"""AuditRecord: what one party states about one run, one frozen record per event, signed and chained by hash.

The field list follows NIST SP 800-226, EDPB Opinion 28/2024 and ISO/IEC 27559. What holds for the whole run stands in
the `start` record; the chain binds every later record to it. Names, counts, hashes and privacy mathematics only.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from fedvlm_secure import canonical
from fedvlm_secure.dp import events
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.types import DIGEST_BYTES, Digest

SCHEMA_VERSION = 1
GENESIS = "00" * DIGEST_BYTES
"""`previous` of a party's first record."""

NO_PROTECTION = "no formal protection of the released model"


def _event_record(record: dict[str, Any]) -> dict[str, Any]:
    try:
        events.from_record(record)
    except PeerViolation as error:
        raise ValueError(error.cause) from error
    return record


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Line = Annotated[str, Field(max_length=400)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Number = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Time = Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
EventRecord = Annotated[dict[str, Any], AfterValidator(_event_record)]


class Part(BaseModel):
    """A frozen piece of a record: unknown keys, other types, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class GrownPart(Part):
    """A piece that had fewer fields once: where a later one is None it is not written, so that records signed before
    it existed keep their bytes and their hash.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        return {name: value for name, value in fields.items() if value is not None or name not in self.later}


class Sight(Part):
    """What one party can see."""

    party: Line
    sees: Line


class ScoreTerms(Part):
    """`facts.ScoreFacts`, as written down."""

    release: Literal["final", "each"]
    every: Annotated[int, Field(ge=1, lt=1 << 31)]
    training_rounds: Count
    tasks: tuple[Line, ...]
    noise_multiplier: Number
    steps_per_patient: Annotated[int, Field(ge=1, lt=1 << 31)]
    bound_squared: Annotated[int, Field(ge=1, lt=1 << 63)]
    share_variance: Count
    event: EventRecord


class ShareTerms(Part):
    """`facts.ShareFacts`, as written down: one round's sum, by who looks on (`dp.observers`)."""

    makers: Annotated[int, Field(ge=1, lt=1 << 31)]
    readers: Annotated[int, Field(ge=1, lt=1 << 31)]
    coalition: Count
    step_event: EventRecord
    readers_event: EventRecord
    alone_event: EventRecord
    two_hospitals_event: EventRecord


class PrivacyTerms(GrownPart):
    """`facts.PrivacyFacts`, as written down."""

    mechanism: Literal["dp_sgd", "distributed"]
    unit: Line
    adjacency: Literal["add_or_remove", "replace_one"]
    holds_against: Line
    clip_norm: Number
    clip_squared: Count
    grid: Number
    share_variance: Count
    guaranteed_variance: Count
    noise_multiplier: Number
    sampling_rate: Share
    steps: Count
    expected_patients: Count | None
    patient_cap: Count
    round_event: EventRecord
    delta: Share
    noise_ratio: Number | None
    noise_ratio_pooled: Number
    random_source: Line
    accountant: Line
    scores: ScoreTerms | None = None
    shares: ShareTerms | None = None

    later: ClassVar[frozenset[str]] = frozenset({"shares"})


class Start(Part):
    """A party joins a run: what was agreed, what it runs, what it will release.

    Args:
        roster: digest of the pinned roster.
        model: digest of the state before the first round.
        code: digest of the installed package's sources.
        privacy: None under `privacy: none`; then no epsilon stands anywhere in the chain.
        statement: what can be said of the released model in one line.
        population: salted digest of the population's name, at hospitals.
        released: metrics that leave a hospital, with their cost, one line each.
        empirical_audit: the last one made, in words.
    """

    kind: Literal["start"] = "start"
    policy_name: Line
    policy_hash: Hash
    roster: Hash
    nodes: tuple[Name, ...]
    threshold: Count
    colluding: Count
    min_survivors: Count
    protection: Line
    lanes: Count
    dimension: Count
    rounds: Count
    base: Hash
    layout: Hash
    model: Hash
    version: Line
    code: Hash
    privacy: PrivacyTerms | None
    statement: Line
    population: Hash | None
    visibility: tuple[Sight, ...]
    not_protected: tuple[Line, ...]
    released: tuple[Line, ...]
    empirical_audit: Line


class LedgerEntry(Part):
    """Number and hash of a ledger's last entry: a ledger that lacks it later was set back or replaced."""

    sequence: Annotated[int, Field(ge=1, lt=1 << 63)]
    digest: Hash


class PurseState(GrownPart):
    """A hospital's purse after a round.

    Args:
        event: everything ever charged to the population.
        epsilon: of `event` at the operator's delta; None where something was released without protection.
        remaining: limit less epsilon, at least 0.
        head: of the ledger when this was written; None in older records.
    """

    event: EventRecord
    delta: Share
    epsilon: Number | None
    limit: Number
    remaining: Number
    head: LedgerEntry | None = None

    later: ClassVar[frozenset[str]] = frozenset({"head"})


class Spending(GrownPart):
    """What a round cost. Epsilons hold at the policy's delta, the purse's at the operator's; None is no bound at all.

    Args:
        event: what this round was charged with; None if nothing was uploaded.
        epsilon_run: all rounds of this run so far: the number of record.
        epsilon_coalition: the same against the coalition counted with, and the aggregator.
        epsilon_worst_case: the same if every other party is dishonest.
        epsilon_readers: the same against the aggregator alone and readers of the model; of shared noise only.
        noise_variance: of the noise in each sum, in grid steps squared: this party's own; of shared noise that of all
            survivors together, or what is guaranteed where they are not known.
        purse: at hospitals.
    """

    event: EventRecord | None
    epsilon_round: Number | None
    epsilon_run: Number | None
    epsilon_coalition: Number | None
    epsilon_worst_case: Number | None
    noise_variance: Count
    purse: PurseState | None
    epsilon_readers: Number | None = None

    later: ClassVar[frozenset[str]] = frozenset({"epsilon_readers"})


class TaskTotal(Part):
    """Right answers in the protected sum, all hospitals together."""

    task: Line
    correct: Count
    total: Count


class ReleasedScore(Part):
    """Noised numbers of test patients in the protected sum, all hospitals together. Small ones may be negative.

    Args:
        right, wrong: patients, each counted in the share of its questions answered rightly, and the rest.
        deviation: standard deviation of the noise on either.
    """

    task: Line
    right: float
    wrong: float
    deviation: Number


class Round(GrownPart):
    """A closed round, counted from 1.

    Args:
        outcome: `result`, `void` (closed without one), or `missed` (this party was away and took the state over).
        attempt: of the plan that led to the result, from 1; None where this party does not know it.
        ctx: context of that attempt; with `survivors` and their hash only for `result`.
        model_before, model_after, result: digests; None only where a missed round was never seen.
        totals: exact metrics that were released in this round's sum.
        released: noised ones, of the model that entered the round; at the aggregator.
        spending: None under `privacy: none`.
        isolated: hospitals that a set signed in this round takes out, or in, once too often, so that differences of
            sums show them; at hospitals. None where this party signed no set, or kept no such note.
    """

    kind: Literal["round"] = "round"
    round: Annotated[int, Field(ge=1, lt=1 << 31)]
    outcome: Literal["result", "void", "missed"]
    attempt: Annotated[int, Field(ge=1, lt=1 << 31)] | None
    ctx: Hash | None
    survivors: tuple[Name, ...] | None
    survivors_hash: Hash | None
    model_before: Hash | None
    model_after: Hash | None
    result: Hash | None
    totals: tuple[TaskTotal, ...]
    spending: Spending | None
    released: tuple[ReleasedScore, ...] = ()
    isolated: tuple[Name, ...] | None = None

    later: ClassVar[frozenset[str]] = frozenset({"isolated"})


class End(Part):
    """The party's last word: `finished` and `aborted` are final, after `left` it may come back."""

    kind: Literal["end"] = "end"
    outcome: Literal["finished", "aborted", "left"]
    code: Annotated[str, Field(pattern=r"^[A-Z0-9_]{0,64}$")]
    rounds_closed: Count
    model: Hash | None
    epsilon_two_hospitals: Number | None


class Draft(Part):
    """A record without its signature."""

    schema_version: Literal[1] = 1
    index: Count
    role: Literal["node", "aggregator"]
    party: Name
    run: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
    run_hash: Hash
    previous: Hash
    time: Time
    body: Annotated[Start | Round | End, Field(discriminator="kind")]

    @property
    def digest(self) -> Digest:
        """Over every field but the signature; the next record's `previous`."""
        return canonical.digest("audit-record", self.model_dump(exclude={"signature"}))


class AuditRecord(Draft):
    """One line of audit.jsonl."""

    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    def to_line(self) -> bytes:
        """The one form of this record on disk, with its line break."""
        return self.model_dump_json().encode("utf-8") + b"\n"


def survivors_hash(ctx: str, survivors: tuple[str, ...]) -> str:
    """Digest of S, bound to its attempt."""
    return canonical.digest("audit-survivors", ctx, list(survivors)).hex()
