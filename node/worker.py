"""Training and scoring in one thread of their own, so that messages and heartbeats go on meanwhile."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.rounds.actions import Evaluate, LocalUpdate, Train
from fedvlm_secure.types import Clock, Float32Vector, Int64Vector
from node.metrics import MetricsFile
from node.traffic import SentBytes


class Counted(Protocol):
    """Counts of one task; `vlm.tasks.scores.Score`."""

    @property
    def correct(self) -> int:
        """Right answers."""
        ...

    @property
    def total(self) -> int:
        """Questions asked."""
        ...


class Scores(Protocol):
    """`vlm.tasks.scores.Evaluation`."""

    @property
    def tasks(self) -> Mapping[str, Counted]:
        """Per task."""
        ...

    def as_json(self) -> dict[str, object]:
        """Everything, for the metrics file."""
        ...


class Trainer(Protocol):
    """`train.session.LocalTraining`."""

    def train(self, round_number: int, difference: Float32Vector) -> Trained:
        """One round, counted from 1; with the sums over test patients where a noised release is due."""
        ...

    def evaluate(self, difference: Float32Vector, *, limit: int | None = None) -> Scores:
        """Score a state on the test rows."""
        ...


class Trained(Protocol):
    """`train.settings.LocalUpdate`; see `rounds.actions.LocalUpdate` for the fields."""

    @property
    def update(self) -> Float32Vector: ...
    @property
    def rows(self) -> int: ...
    @property
    def loss_sum(self) -> float: ...
    @property
    def loss_count(self) -> int: ...
    @property
    def right(self) -> Mapping[str, int]: ...
    @property
    def wrong(self) -> Mapping[str, int]: ...
    @property
    def integers(self) -> Int64Vector | None: ...


@dataclass(frozen=True, eq=False)
class TrainingDone:
    """A Train action's update, or why there is none."""

    round: int
    update: LocalUpdate | None
    error: FedvlmError | None


@dataclass(frozen=True)
class ScoringFailed:
    """An Evaluate action could not be carried out."""

    error: FedvlmError


class Worker:
    """Carries out Train and Evaluate actions one after the other.

    Args:
        trainer: this hospital's model and data.
        events: gets TrainingDone and ScoringFailed.
        limit: test questions per round; the last state is scored on all.
        every: rounds between scored states; the first and the last are always scored.
        release: whether exact counts of right answers go into the protected sum.
    """

    def __init__(
        self,
        trainer: Trainer,
        events: queue.Queue[object],
        metrics: MetricsFile,
        sent: SentBytes,
        clock: Clock,
        *,
        limit: int | None,
        every: int,
        release: bool,
    ) -> None:
        self._trainer, self._events, self._metrics = trainer, events, metrics
        self._sent, self._clock = sent, clock
        self._limit, self._every, self._release = limit, every, release
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="train")
        self._scored: tuple[bytes, bool, Scores] | None = None
        self._train_seconds = 0.0

    def train(self, action: Train) -> None:
        """Queue a round; TrainingDone follows."""
        self._pool.submit(
            self._guarded, lambda: self._train(action), lambda error: TrainingDone(action.round, None, error)
        )

    def evaluate(self, action: Evaluate, run: str) -> None:
        """Queue the scoring of a state of a run (its hash in hexadecimal); a line in the metrics file follows."""
        self._pool.submit(self._guarded, lambda: self._evaluate(action, run), ScoringFailed)

    def finish(self) -> None:
        """Wait until all that was queued is done."""
        self._pool.shutdown(wait=True)

    def abandon(self) -> None:
        """Drop what has not begun; a round under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, work: Callable[[], object], failed: Callable[[FedvlmError], object]) -> None:
        try:
            self._events_put(work())
        except FedvlmError as error:
            self._events.put(failed(error))
        except BaseException as error:
            self._events.put(Crashed(error))

    def _events_put(self, done: object) -> None:
        if done is not None:
            self._events.put(done)

    def _train(self, action: Train) -> TrainingDone:
        scores = self._score(action.state, full=False) if self._release and self._is_due(action.round) else None
        start_s = self._clock.now_s()
        done = self._trainer.train(action.round + 1, action.state)
        self._train_seconds = self._clock.now_s() - start_s
        counted = {} if scores is None else dict(scores.tasks)
        update = LocalUpdate(
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
        return TrainingDone(action.round, update, None)

    def _evaluate(self, action: Evaluate, run: str) -> None:
        if not (action.last or self._is_due(action.round)) or self._metrics.has(run, action.round, last=action.last):
            return
        start_s = self._clock.now_s()
        scores = self._score(action.state, full=action.last)
        control, upload = self._sent.take()
        self._metrics.append(
            {
                "run": run,
                "round": action.round,
                "last": action.last,
                **scores.as_json(),
                "evaluate_seconds": round(self._clock.now_s() - start_s, 3),
                "train_seconds": round(self._train_seconds, 3),
                "control_bytes": control,
                "upload_bytes": upload,
            }
        )

    def _is_due(self, round_number: int) -> bool:
        return round_number % self._every == 0

    def _score(self, state: Float32Vector, *, full: bool) -> Scores:
        """Score a state; the same one is not scored twice in a row (a void round leaves the model as it was)."""
        key = state.tobytes()
        if self._scored is None or self._scored[:2] != (key, full):
            self._scored = (key, full, self._trainer.evaluate(state, limit=None if full else self._limit))
        return self._scored[2]


@dataclass(frozen=True, eq=False)
class Crashed:
    """A fault of ours in the worker's thread, to be raised again in the service's."""

    error: BaseException
