"""TrainedWork: a simulated hospital that really trains; what a node's worker does, without a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.types import Digest, Float32Vector

if TYPE_CHECKING:
    from fedvlm_secure.train.noised import NoisedTraining
    from fedvlm_secure.train.session import LocalTraining
    from fedvlm_secure.vlm.tasks.scores import Evaluation


class TrainedWork:
    """`simulate.federation.LocalWork` by a model and rows.

    A round from a state that was trained from before gives the same update without training again: two federations
    that share their works can be compared in the time of one.

    Args:
        training: this hospital's model and data, with noise where the policy asks for it.
        policy: says how much is scored, and what of it goes into the protected sum.

    Attributes:
        scores: closed rounds -> scores of that state; the last one over the whole test set.
    """

    def __init__(self, training: LocalTraining | NoisedTraining, policy: Policy) -> None:
        self.scores: dict[int, Evaluation] = {}
        self._training, self._evaluation = training, policy.evaluation
        self._trained: dict[tuple[int, bytes], LocalUpdate] = {}
        self._scored: dict[tuple[bytes, bool], Evaluation] = {}

    @property
    def layout(self) -> UpdateLayout:
        return self._training.layout

    @property
    def base_fingerprint(self) -> Digest:
        return Digest(bytes.fromhex(self._training.base_fingerprint))

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        """One round, counted from 0, from `state`, float32 [d].

        Raises:
            ModelError: the update is not finite, or zero.
        """
        key = (round_number, state.tobytes())
        if key not in self._trained:
            self._trained[key] = self._train(round_number, state)
        return self._trained[key]

    def _train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        counted = {}
        if self._evaluation.release == "totals" and round_number % self._evaluation.every == 0:
            counted = dict(self._score(state, whole=False).tasks)
        done = self._training.train(round_number + 1, state)
        return LocalUpdate(
            update=done.update,
            rows=done.rows,
            loss_sum=done.loss_sum,
            loss_count=done.loss_count,
            correct={task: score.correct for task, score in counted.items()},
            total={task: score.total for task, score in counted.items()},
            right=done.right,
            wrong=done.wrong,
            integers=done.integers,
        )

    def evaluate(self, closed_rounds: int, state: Float32Vector, last: bool) -> None:
        """Score a state where the policy asks for it, the last one always and on all questions."""
        if last or closed_rounds % self._evaluation.every == 0:
            self.scores[closed_rounds] = self._score(state, whole=last)

    def _score(self, state: Float32Vector, *, whole: bool) -> Evaluation:
        key = (state.tobytes(), whole)
        if key not in self._scored:
            self._scored[key] = self._training.evaluate(state, None if whole else self._evaluation.limit)
        return self._scored[key]
