"""RunSummary: what happened in a run, who could see what, and how well the model does; the content of report.json.

It holds names, counts, sizes, hashes and scores. No path, no patient, no update and no sum has a field here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedvlm_secure.errors import StorageError
from fedvlm_secure.policy.schema import Policy

FORMAT = 1


@dataclass(frozen=True)
class Accuracy:
    """Exact matches of freely generated answers at one state of the model.

    Args:
        round: closed rounds; 0 is before any training.
        node: the hospital whose own test questions were asked, or None for all hospitals together.
        task: kind of question.
        correct, total: counts, 0 <= correct <= total.
        low, high: 95 % interval of the share, by Wilson's score.
        constrained_correct: the same when decoding is held to the allowed answers.
        whole: all test questions were asked, not a sample.

    Raises:
        ValueError: counts or interval outside their bounds.
    """

    round: int
    node: str | None
    task: str
    correct: int
    total: int
    low: float
    high: float
    constrained_correct: int
    whole: bool

    def __post_init__(self) -> None:
        if not (0 <= self.correct <= self.total and 0 <= self.constrained_correct <= self.total):
            raise ValueError("an accuracy counts between 0 and its total")
        if self.total < 1 or not 0.0 <= self.low <= self.high <= 1.0:
            raise ValueError("an accuracy has questions and an interval inside 0..1")

    @property
    def share(self) -> float:
        return self.correct / self.total

    @property
    def constrained_share(self) -> float:
        return self.constrained_correct / self.total


@dataclass(frozen=True)
class Sent:
    """Bytes that one hospital handed to the network in one round, counted by itself."""

    node: str
    upload_bytes: int
    control_bytes: int


@dataclass(frozen=True)
class RoundSummary:
    """One closed round, counted from 1.

    Args:
        void: it was closed without a result; the model stayed as it was.
        vector_bytes: the protected vector of one hospital, without headers and shares; None for a void round.
        plain_bytes: the same update as plain float32.
        loss: mean training loss over the cohort, known only as a total.
        sent: per hospital, where it wrote that down.
    """

    round: int
    attempts: int
    void: bool
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    vector_bytes: int | None
    plain_bytes: int | None
    loss: float | None
    sent: tuple[Sent, ...]


@dataclass(frozen=True)
class Party:
    """One party's identity: fingerprint as in the roster, serial of its TLS certificate in hexadecimal."""

    name: str
    fingerprint: str
    serial: str


@dataclass(frozen=True)
class Sight:
    """What one party could see."""

    party: str
    sees: str


@dataclass(frozen=True)
class PolicyFacts:
    """The policy in short; `digest` is its hash in hexadecimal."""

    name: str
    digest: str
    rounds: int
    algorithm: str
    strategy: str
    base: str
    base_sha256: str
    protection: str
    privacy: str


@dataclass(frozen=True)
class RunSummary:
    """One run. Accuracies are ordered by round, task, hospital.

    Args:
        run: run id, hexadecimal.
        made_at: ISO 8601, UTC.
        software: name and version.
        data: what the hospitals held, in words, without a path.
        note: one line that a reader must not miss; may be empty.
        roster: fingerprint of the whole roster.
        seconds: wall-clock seconds by stage.
        question_limit: test questions per hospital and round before the last, None for all.
    """

    run: str
    made_at: str
    software: str
    policy: PolicyFacts
    data: str
    note: str
    dimension: int
    threshold: int
    colluding: int
    roster: str
    aggregator: Party
    hospitals: tuple[Party, ...]
    rounds: tuple[RoundSummary, ...]
    accuracy: tuple[Accuracy, ...]
    question_limit: int | None
    visibility: tuple[Sight, ...]
    unprotected: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.task for entry in self.accuracy))

    @property
    def last_round(self) -> int:
        """Closed rounds of the last scored state."""
        return max((entry.round for entry in self.accuracy), default=0)

    def at(self, round_number: int, node: str | None, task: str) -> Accuracy | None:
        """One accuracy, where it was scored."""
        wanted = (round_number, node, task)
        return next((entry for entry in self.accuracy if (entry.round, entry.node, entry.task) == wanted), None)


def policy_facts(policy: Policy, digest: bytes) -> PolicyFacts:
    """What the summary says about a policy."""
    base = policy.model.base
    return PolicyFacts(
        name=policy.name,
        digest=digest.hex(),
        rounds=policy.rounds,
        algorithm=policy.algorithm.name,
        strategy=policy.model.strategy,
        base=base.name if base.name is not None else "given by path",
        base_sha256=base.sha256,
        protection=policy.protection.method,
        privacy=policy.privacy.mechanism,
    )


def round_summaries(
    closed: Sequence[Mapping[str, Any]], sent: Mapping[int, Sequence[Sent]] | None = None
) -> tuple[RoundSummary, ...]:
    """The rounds as the aggregator's progress tells them (counted from 0 there), with the hospitals' own byte counts.

    Args:
        closed: the `summaries` of `AggregatorRun.progress`.
        sent: by round, counted from 1.
    """
    return tuple(
        RoundSummary(
            round=int(entry["round"]) + 1,
            attempts=int(entry["attempt"]) + 1,
            void=bool(entry["void"]),
            survivors=tuple(entry["survivors"]),
            dropped=tuple(entry.get("dropped", ())),
            vector_bytes=entry.get("upload_bytes"),
            plain_bytes=entry.get("plain_bytes"),
            loss=entry.get("loss"),
            sent=tuple((sent or {}).get(int(entry["round"]) + 1, ())),
        )
        for entry in closed
    )


def to_json(summary: RunSummary) -> str:
    """The text of report.json: every field, and each accuracy's share beside its counts."""
    fields = dataclasses.asdict(summary)
    fields["accuracy"] = [
        {**dataclasses.asdict(entry), "share": entry.share, "constrained_share": entry.constrained_share}
        for entry in summary.accuracy
    ]
    return json.dumps({"format": FORMAT, **fields}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> RunSummary:
    """Inverse of `to_json`.

    Raises:
        StorageError: REPORT_UNREADABLE, it is no report.json of this format.
    """
    try:
        fields = json.loads(text)
        if fields.pop("format") != FORMAT:
            raise ValueError("another format")
        for entry in fields["accuracy"]:
            del entry["share"], entry["constrained_share"]
        rounds = tuple(_round(entry) for entry in fields.pop("rounds"))
        return RunSummary(
            **{
                **fields,
                "policy": PolicyFacts(**fields["policy"]),
                "aggregator": Party(**fields["aggregator"]),
                "hospitals": tuple(Party(**entry) for entry in fields["hospitals"]),
                "rounds": rounds,
                "accuracy": tuple(Accuracy(**entry) for entry in fields["accuracy"]),
                "visibility": tuple(Sight(**entry) for entry in fields["visibility"]),
                "unprotected": tuple(fields["unprotected"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            "REPORT_UNREADABLE", "not a report.json of this version", "use the file as the run wrote it"
        ) from error


def _round(entry: Mapping[str, Any]) -> RoundSummary:
    listed = {name: tuple(entry[name]) for name in ("survivors", "dropped")}
    return RoundSummary(**{**entry, **listed, "sent": tuple(Sent(**sent) for sent in entry["sent"])})
