"""A hospital's training under a policy's privacy section: the rounds that a worker asks for, each one with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.session import LocalTraining
from fedvlm_secure.train.settings import LocalUpdate
from fedvlm_secure.types import Entropy, Float32Vector
from fedvlm_secure.vlm.tasks.scores import Evaluation


@dataclass(frozen=True)
class ScoreSchedule:
    """Which rounds, counted from 1, also score the state that they start from, for a noised release of `tasks`."""

    tasks: tuple[str, ...]
    is_due: Callable[[int], bool]


class NoisedTraining:
    """`LocalTraining` whose rounds are private.

    Args:
        training: model and data.
        settings: mechanism and optimizer, this hospital's expected patients among them.
        entropy: of sampling, rounding and noise; never a policy's seed.
        schedule: of the scores that are released; None where they all stay here.
    """

    def __init__(
        self,
        training: LocalTraining,
        settings: PrivateSettings,
        entropy: Entropy,
        schedule: ScoreSchedule | None = None,
    ) -> None:
        self._training, self._settings, self._entropy = training, settings, entropy
        self._schedule = schedule

    @property
    def layout(self) -> UpdateLayout:
        """Names and shapes of the flat vector [d]."""
        return self._training.layout

    @property
    def base_fingerprint(self) -> str:
        """64 hexadecimal digits."""
        return self._training.base_fingerprint

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        """One private round from the global state, float32 [d]; see `LocalTraining.train_private`.

        Args:
            round_number: 1..rounds; one beyond trains nothing and gives scores alone.

        Returns:
            The update, zero in a round beyond the last; with the exact sums over test patients where they are due,
            to which noise is added before they are stored or sent.
        """
        if round_number > self._settings.rounds:
            done = LocalUpdate(np.zeros(self.layout.dimension, np.float32), rows=0, loss_sum=0.0, loss_count=0)
        else:
            done = self._work(round_number, difference)
        schedule = self._schedule
        if schedule is None or not schedule.is_due(round_number):
            return done
        totals = self._training.score_patients(difference, schedule.tasks)
        return replace(done, right=totals.right, wrong=totals.wrong)

    def _work(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        return self._training.train_private(round_number, difference, self._settings, self._entropy)

    def evaluate(self, difference: Float32Vector, limit: int | None = None) -> Evaluation:
        """Score the test rows here; the scores are exact and stay at this hospital."""
        return self._training.evaluate(difference, limit)


class SummedTraining(NoisedTraining):
    """`NoisedTraining` whose rounds give one clipped sum of gradients; the noise is added behind it, in shares."""

    def _work(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        return self._training.sum_gradients(difference, self._settings, self._entropy)
