"""What the purse and the policy tell the audit: frozen facts, handed in by the service. Mathematics and words only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from fedvlm_secure.dp.accounting import Adjacency
from fedvlm_secure.dp.events import Event
from fedvlm_secure.dp.observers import Observers
from fedvlm_secure.types import Digest


@dataclass(frozen=True, kw_only=True)
class ScoreFacts:
    """Noised releases of scores in a run.

    Args:
        release: `final`, in the one round beyond `training_rounds`; `each`, in every `every`-th round from the first.
        tasks: kinds of questions, in the policy's order.
        noise_multiplier: standard deviation over the most that one patient changes.
        steps_per_patient: grid of the counts.
        bound_squared: L2 norm of one patient's numbers, squared, in steps squared.
        share_variance: variance of one hospital's noise on each number, in steps squared.
        event: what one release costs a test patient.
    """

    release: Literal["final", "each"]
    every: int
    training_rounds: int
    tasks: tuple[str, ...]
    noise_multiplier: float
    steps_per_patient: int
    bound_squared: int
    share_variance: int
    event: Event


@dataclass(frozen=True, kw_only=True)
class ShareFacts:
    """Noise made in shares, under `distributed`.

    Args:
        makers: hospitals in every sum whose shares are counted on; the number of record rests on them.
        readers: the same, where every hospital keeps its share to itself.
        coalition: hospitals whose shares are not counted.
        observers: one round's sum, as an event, by who looks on.
    """

    makers: int
    readers: int
    coalition: int
    observers: Observers


@dataclass(frozen=True, kw_only=True)
class PrivacyFacts:
    """A run's mechanism, the same in every round. Under `privacy: none` there is no such record (None stands for it).

    Args:
        mechanism: as in the policy.
        unit: what one patient's protection covers, in words ("one patient at one hospital").
        adjacency: add_or_remove or replace_one.
        holds_against: the trust assumption in words.
        clip_norm: C, L2 norm of one patient's gradient.
        clip_squared: c~^2, the integer clip in grid steps, squared.
        grid: value of one grid step.
        share_variance: variance of one noise share in grid steps squared.
        guaranteed_variance: of the noise that is counted on, in grid steps squared (`dp_sgd`: the share itself;
            `distributed`: as many shares as there are makers).
        noise_multiplier: z, as resolved by every party.
        sampling_rate: q in (0, 1].
        steps: noisy steps in one round.
        expected_patients: of this hospital, as the policy declares it; None at the aggregator.
        patient_cap: rows of one patient that count.
        round_event: everything that one round's training releases about this hospital's patients.
        delta: the policy's, for the run's own epsilons.
        noise_ratio: R of this hospital; None at the aggregator.
        noise_ratio_pooled: R over the cohort.
        random_source: where the noise comes from, in words.
        scores: noised releases beside the training, None where there are none.
        shares: of noise that several hospitals make, None where each makes all of its own.

    Raises:
        ValueError: delta outside (0, 1).
    """

    mechanism: Literal["dp_sgd", "distributed"]
    unit: str
    adjacency: Adjacency
    holds_against: str
    clip_norm: float
    clip_squared: int
    grid: float
    share_variance: int
    guaranteed_variance: int
    noise_multiplier: float
    sampling_rate: float
    steps: int
    expected_patients: int | None
    patient_cap: int
    round_event: Event
    delta: float
    noise_ratio: float | None
    noise_ratio_pooled: float
    random_source: str
    scores: ScoreFacts | None = None
    shares: ShareFacts | None = None

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError("delta lies in (0, 1)")


@dataclass(frozen=True)
class LedgerHead:
    """Number, from 1, and hash of a ledger's last entry: what is signed, and what a restore may never fall below."""

    sequence: int
    digest: Digest


@dataclass(frozen=True, kw_only=True)
class PurseFacts:
    """The population's purse as the ledger stands once a round is closed.

    Args:
        round_event: what this round was charged with; None if this node uploaded nothing in it.
        population_event: everything ever charged to the population, this round and other runs included.
        delta: the operator's own.
        limit: the operator's limit on epsilon; may change between rounds.
        head: of the ledger that says so; None for a purse without a file behind it.

    Raises:
        ValueError: delta or limit outside their range.
    """

    round_event: Event | None
    population_event: Event
    delta: float
    limit: float
    head: LedgerHead | None = None

    def __post_init__(self) -> None:
        if not (0 < self.delta < 1 and math.isfinite(self.limit) and self.limit >= 0):
            raise ValueError("delta in (0, 1) and a finite limit >= 0")


class PurseReader(Protocol):
    """A population's ledger, read for the audit."""

    def at_round(self, run_hash: Digest, round_number: int) -> PurseFacts:
        """The purse as it stands, and what round `round_number` of a run, counted from 0, was charged with."""
        ...
