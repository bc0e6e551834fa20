"""What a policy says about local training under `dp_sgd`. Every number here is public and the same in all rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedvlm_secure.dp.rounding import IntegerClip, grid_steps_for
from fedvlm_secure.dp.sampling import sampling_threshold
from fedvlm_secure.dp.shared_noise import SharedNoise, shared_noise
from fedvlm_secure.train.settings import Schedule, Stage, scheduled_rate, stage_of_round


@dataclass(frozen=True)
class PrivateSettings:
    """DP-SGD with AdamW at one hospital for one round.

    Args:
        clip_norm: C, L2 over all trainable tensors together, per patient; above 0.
        noise_multiplier: z = sigma / c~ of each step, above 0.
        sampling_rate: q in (0, 1], of patients.
        steps_per_round: noisy steps, each charged to the budget.
        expected_patients: declared by the operator, at least 1; with q it gives the divisor, whatever was drawn.
        learning_rate: of AdamW, above 0; without weight decay.
        patient_cap: rows of a drawn patient whose gradients are averaged before the clip, at least 1.
        schedule: `constant`, or `cosine` over the rounds.
        rounds: of the run, for the cosine.
        mu: FedProx; mu * (w - w_global) is added to the noised gradient; 0 is FedAvg.
        connector_rounds: of `two-stage`, as in `LocalSettings`; None trains all of the strategy's tensors.
        microbatch: rows whose gradients are held at a time, at least patient_cap; changes memory and nothing else.

    Raises:
        ValueError: a bound above does not hold.
    """

    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    expected_patients: int
    learning_rate: float
    patient_cap: int = 1
    schedule: Schedule = "constant"
    rounds: int = 1
    mu: float = 0.0
    connector_rounds: int | None = None
    microbatch: int = 128

    def __post_init__(self) -> None:
        positive = (self.clip_norm, self.noise_multiplier, self.learning_rate)
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise ValueError("privacy: clip_norm, noise_multiplier and learning_rate are above 0")
        sampling_threshold(self.sampling_rate)
        if min(self.steps_per_round, self.expected_patients, self.patient_cap, self.rounds) < 1:
            raise ValueError("privacy: steps_per_round, expected_patients, patient_cap and rounds are at least 1")
        if self.connector_rounds is not None and self.connector_rounds < 1:
            raise ValueError("connector_rounds is at least 1")
        if self.microbatch < self.patient_cap:
            raise ValueError("microbatch holds at least all rows of one patient: patient_cap")
        if not (math.isfinite(self.mu) and self.mu >= 0) or self.schedule not in ("constant", "cosine"):
            raise ValueError("privacy: mu >= 0, schedule constant or cosine")

    @property
    def divisor(self) -> float:
        """q * expected_patients. The number really drawn would tell how many patients there are."""
        return self.sampling_rate * self.expected_patients

    def learning_rate_at(self, round_number: int) -> float:
        """Learning rate of round 1..rounds; see `scheduled_rate`."""
        return scheduled_rate(self.learning_rate, self.schedule, self.rounds, round_number)

    def stage_at(self, round_number: int) -> Stage | None:
        """What trains in round 1..rounds; None where everything does."""
        return stage_of_round(self.connector_rounds, round_number)

    def clip(self, dimension: int) -> IntegerClip:
        """The clip on the coarsest grid whose rounding costs at most half a percent of noise."""
        return IntegerClip(self.clip_norm, grid_steps_for(dimension), dimension)

    def noise(self, dimension: int) -> SharedNoise:
        """The noise of one step, made by this hospital alone; its `step_event(sampling_rate)` is what a step costs."""
        return shared_noise(self.noise_multiplier, self.clip(dimension).squared, 1, dimension)
