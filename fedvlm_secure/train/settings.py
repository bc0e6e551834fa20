"""What a policy says about local training, and what one round of it yields."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fedvlm_secure.types import Float32Vector, Int64Vector

Schedule = Literal["constant", "cosine"]
Augment = Literal["none", "shift"]
Stage = Literal["connector", "lora"]


@dataclass(frozen=True)
class LocalSettings:
    """AdamW at one hospital for one round.

    Args:
        learning_rate: of the first round, above 0.
        batch_size: rows per step.
        steps: steps per round; or
        epochs: passes over the training rows per round. Exactly one of the two is given.
        weight_decay: decoupled, 0 or more.
        schedule: `constant`, or `cosine` over the rounds (never inside one, where it would depend on a node's rows).
        rounds: rounds of the run, for the cosine.
        augment: `shift` moves each training picture by up to `max_shift` pixels each way; `none` does not.
        max_shift: pixels, used by `shift`.
        proximal_mu: of FedProx, 0 or more; 0 is the plain objective.
        connector_rounds: of `two-stage`, 1 or more: so many rounds train the connector alone, later ones LoRA alone;
            None trains all of the strategy's tensors in every round.

    Raises:
        ValueError: a bound above does not hold.
    """

    learning_rate: float
    batch_size: int
    steps: int | None = None
    epochs: int | None = None
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    rounds: int = 1
    augment: Augment = "none"
    max_shift: int = 2
    proximal_mu: float = 0.0
    connector_rounds: int | None = None

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError("local.learning_rate is above 0")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("local: either steps or epochs")
        if min(self.batch_size, self.steps or 1, self.epochs or 1, self.rounds) < 1 or self.weight_decay < 0:
            raise ValueError("local: batch_size, steps, epochs, rounds >= 1 and weight_decay >= 0")
        if self.schedule not in ("constant", "cosine") or self.augment not in ("none", "shift") or self.max_shift < 0:
            raise ValueError("local: schedule constant or cosine, augment none or shift, max_shift >= 0")
        if not 0.0 <= self.proximal_mu < math.inf or (self.connector_rounds or 1) < 1:
            raise ValueError("local: proximal_mu >= 0 and connector_rounds >= 1")

    def learning_rate_at(self, round_number: int) -> float:
        """Learning rate of round 1..rounds; see `scheduled_rate`."""
        return scheduled_rate(self.learning_rate, self.schedule, self.rounds, round_number)

    def stage_at(self, round_number: int) -> Stage | None:
        """What trains in round 1..rounds; None where everything does."""
        return stage_of_round(self.connector_rounds, round_number)

    def steps_for(self, rows: int) -> int:
        """Optimizer steps of one round at a hospital with `rows` training rows."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 1) * math.ceil(rows / self.batch_size)


def stage_of_round(connector_rounds: int | None, round_number: int) -> Stage | None:
    """What trains in round 1..rounds of a two-stage run; None where there are no stages and everything trains."""
    if connector_rounds is None:
        return None
    return "connector" if round_number <= connector_rounds else "lora"


def scheduled_rate(learning_rate: float, schedule: Schedule, rounds: int, round_number: int) -> float:
    """Learning rate of round 1..rounds; under `cosine` the first round has the whole, the last still some.

    Raises:
        ValueError: a round outside 1..rounds under `cosine`.
    """
    if schedule == "constant":
        return learning_rate
    if not 1 <= round_number <= rounds:
        raise ValueError(f"round {round_number} outside 1..{rounds}")
    return learning_rate * 0.5 * (1.0 + math.cos(math.pi * (round_number - 1) / rounds))


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """One hospital's round. It leaves the hospital only inside a protected sum.

    Args:
        update: float32 [d], difference after training minus difference before; finite and not all zero.
        rows: number of training rows (the weight under `counted`).
        loss_sum: sum of the cross entropy over the answer tokens seen, in nats.
        loss_count: number of those tokens.
        right, wrong: per task, exact sums over test patients for a noised release (`train.patient_scores`); else empty.
        integers: under `distributed` int64 [d], the clipped sum of `train.summed` before noise; `update` is empty then.
    """

    update: Float32Vector
    rows: int
    loss_sum: float
    loss_count: int
    right: Mapping[str, int] = field(default_factory=dict)
    wrong: Mapping[str, int] = field(default_factory=dict)
    integers: Int64Vector | None = None

    def __post_init__(self) -> None:
        if self.update.dtype != np.float32 or self.update.ndim != 1:
            raise ValueError("an update is float32 [d]")
