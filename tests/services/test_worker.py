"""Training and scoring beside the protocol: nothing twice, nothing lost, failures told."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedvlm_secure.errors import DataError, StorageError
from fedvlm_secure.rounds.actions import Evaluate, LocalUpdate, Train
from fedvlm_secure.types import Float32Vector
from node.metrics import MetricsFile
from node.traffic import SentBytes
from node.worker import Crashed, ScoringFailed, TrainingDone, Worker
from tests.support.consortium import SteadyClock

START, NEXT = np.zeros(4, np.float32), np.ones(4, np.float32)


@dataclass(frozen=True)
class _Score:
    correct: int
    total: int


@dataclass(frozen=True)
class _Scores:
    tasks: dict[str, _Score]

    def as_json(self) -> dict[str, object]:
        return {"tasks": {task: score.correct for task, score in self.tasks.items()}}


@dataclass
class _Trainer:
    """Notes what is asked of it."""

    asked: list[tuple[str, int | None]] = field(default_factory=list)
    fault: Callable[[], None] = lambda: None

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        self.asked.append(("train", round_number))
        self.fault()
        return LocalUpdate(difference + 1, rows=7, loss_sum=2.0, loss_count=3, correct={}, total={})

    def evaluate(self, difference: Float32Vector, *, limit: int | None = None) -> _Scores:
        self.asked.append(("evaluate", limit))
        self.fault()
        return _Scores({"vqa": _Score(int(difference.sum()), 9)})


class _Bench:
    def __init__(self, folder: Path, *, every: int = 1, release: bool = True) -> None:
        self.trainer, self.events = _Trainer(), queue.Queue[object]()
        self.metrics, self.sent = MetricsFile(folder), SentBytes()
        self.worker = Worker(
            self.trainer,
            self.events,
            self.metrics,
            self.sent,
            SteadyClock(),
            limit=5,
            every=every,
            release=release,
        )


def test_counts_of_the_rounds_start_ride_with_the_update_and_are_scored_once(tmp_path: Path) -> None:
    bench = _Bench(tmp_path)
    bench.worker.evaluate(Evaluate(0, NEXT, last=False), "ab")
    bench.worker.train(Train(0, 0, NEXT))
    bench.worker.finish()
    done = bench.events.get_nowait()
    assert isinstance(done, TrainingDone) and done.update is not None
    assert (done.update.correct, done.update.total, done.update.rows) == ({"vqa": 4}, {"vqa": 9}, 7)
    assert bench.trainer.asked == [("evaluate", 5), ("train", 1)]


@pytest.mark.parametrize(("every", "release"), [(1, False), (2, True)])
def test_counts_that_are_not_due_or_not_released_do_not_ride(tmp_path: Path, every: int, release: bool) -> None:
    bench = _Bench(tmp_path, every=every, release=release)
    bench.worker.train(Train(1, 0, START))
    bench.worker.finish()
    done = bench.events.get_nowait()
    assert isinstance(done, TrainingDone) and done.update is not None
    assert (done.update.correct, done.update.total) == ({}, {})
    assert bench.trainer.asked == [("train", 2)]


def test_the_metrics_file_has_one_line_per_scored_state_also_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        bench = _Bench(tmp_path, every=2)
        bench.sent.upload(b"12345")
        bench.sent.control(b"123")
        for number in range(4):
            bench.worker.evaluate(Evaluate(number, START + np.float32(number), last=number == 3), "ab")
        bench.worker.finish()
        assert bench.events.empty()
    rows = MetricsFile(tmp_path).rows()
    assert [(row["run"], row["round"], row["last"]) for row in rows] == [
        ("ab", 0, False),
        ("ab", 2, False),
        ("ab", 3, True),
    ]
    assert [(row["upload_bytes"], row["control_bytes"]) for row in rows] == [(5, 3), (0, 0), (0, 0)]
    assert (tmp_path / "metrics.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_last_state_is_scored_on_every_question(tmp_path: Path) -> None:
    bench = _Bench(tmp_path)
    bench.worker.evaluate(Evaluate(3, START, last=False), "ab")
    bench.worker.evaluate(Evaluate(3, START, last=True), "ab")
    bench.worker.finish()
    assert bench.trainer.asked == [("evaluate", 5), ("evaluate", None)]


def test_a_void_rounds_unchanged_model_is_not_scored_again(tmp_path: Path) -> None:
    bench = _Bench(tmp_path)
    bench.worker.evaluate(Evaluate(1, START, last=False), "ab")
    bench.worker.evaluate(Evaluate(2, START, last=False), "ab")
    bench.worker.finish()
    assert bench.trainer.asked == [("evaluate", 5)] and len(bench.metrics.rows()) == 2


def test_failures_are_told_and_the_thread_goes_on(tmp_path: Path) -> None:
    bench = _Bench(tmp_path, release=False)

    def unreadable() -> None:
        raise DataError("IMAGE_UNREADABLE", "an image cannot be read", "")

    def bug() -> None:
        raise ZeroDivisionError

    bench.trainer.fault = unreadable
    bench.worker.train(Train(0, 0, START))
    bench.worker.evaluate(Evaluate(0, START, last=False), "ab")
    first, second = bench.events.get(timeout=5), bench.events.get(timeout=5)
    assert isinstance(first, TrainingDone) and first.error is not None and first.error.code == "IMAGE_UNREADABLE"
    assert isinstance(second, ScoringFailed) and second.error.code == "IMAGE_UNREADABLE"
    bench.trainer.fault = bug
    bench.worker.train(Train(0, 0, START))
    third = bench.events.get(timeout=5)
    assert isinstance(third, Crashed) and isinstance(third.error, ZeroDivisionError)
    bench.trainer.fault = lambda: None
    bench.worker.train(Train(0, 0, START))
    bench.worker.finish()
    fourth = bench.events.get_nowait()
    assert isinstance(fourth, TrainingDone) and fourth.update is not None


def test_a_torn_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.append({"round": 0})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"round": 1, "acc')
    assert metrics.rows() == ({"round": 0},)
    metrics.append({"round": 1})
    assert metrics.rows() == ({"round": 0}, {"round": 1})


def test_a_full_disk_leaves_the_lines_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricsFile(tmp_path)
    metrics.append({"round": 0})

    def full(handle: int) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError) as caught:
            metrics.append({"round": 1})
    assert caught.value.code == "DISK_FULL" and metrics.rows() == ({"round": 0},)
