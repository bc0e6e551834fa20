"""A hospital's real service whose training is a fixed vector: what a round costs besides training.

    python -m benchmarks.stub_node serve --config node.yaml --json

Everything else is `fedvlm-node serve`: keys, mutual TLS, journal, ledger, protocol, upload. FEDVLM_BENCH_DIMENSION says
how long the vector is, FEDVLM_BENCH_TRAIN_S how long a round's training takes (asleep: as on a GPU, the processor is
free meanwhile). STATE/bench.jsonl gets a line when a plan has come, when training begins, when it has handed its update
over, and when the aggregator holds the upload: the monotonic clock, and by how much resident memory rose at most since
the plan had come (or since the upload was held).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from benchmarks.masked_round import update_of
from benchmarks.measure import forget_peak, peak_bytes, resident_bytes
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.train.settings import LocalUpdate
from fedvlm_secure.types import Entropy, Float32Vector
from node import main as command
from node import service

DIMENSION, TRAIN_S, MEMORY = "FEDVLM_BENCH_DIMENSION", "FEDVLM_BENCH_TRAIN_S", "FEDVLM_BENCH_MEMORY"
NOTES = "bench.jsonl"
PLANNED, BEGUN, TRAINED, UPLOADED = "planned", "begun", "trained", "uploaded"
ROWS, PATIENTS = 100, 50


class _Scores:
    """No task was scored."""

    tasks: Mapping[str, Any] = {}

    def as_json(self) -> dict[str, object]:
        return {}


class Notes:
    """The file of notes. Memory is counted from the last plan or held upload."""

    def __init__(self, path: Path) -> None:
        self._path, self.last = path, ""
        self._resident = resident_bytes()

    def add(self, what: str) -> None:
        """One line."""
        self.last = what
        note = {"what": what, "at_s": time.monotonic(), "peak_beyond_bytes": peak_bytes() - self._resident}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")
        if what in (PLANNED, UPLOADED) and os.environ.get(MEMORY):  # it takes as long as a short round
            forget_peak()
            self._resident = resident_bytes()


class NotingLog(EventLog):
    """The service's own event log, which also notes when a plan has come and when an upload is held."""

    notes: ClassVar[Notes | None] = None

    def event(self, name: str, **fields: object) -> None:
        """Write one line."""
        if self.notes is not None and name == "uploaded" and self.notes.last == TRAINED:  # else it is a decrypted sum
            self.notes.add(UPLOADED)
        if self.notes is not None and name == "received" and fields.get("kind") == "Plan":
            self.notes.add(PLANNED)
        super().event(name, **fields)


class FixedTraining:
    """`node.worker.Trainer` without a model: the same update in every round.

    Args:
        base: SHA-256 of the base model that the policy names.
    """

    def __init__(self, base: str, dimension: int, notes: Notes, train_s: float, number: int) -> None:
        self.base_fingerprint = base
        self.layout = UpdateLayout((TensorSlot("connector.weight", (dimension,)),))
        self.train_rows = tuple(SimpleNamespace(patient=f"patient-{at}") for at in range(PATIENTS))
        self.test_rows = self.train_rows[:5]
        self._update = LocalUpdate(update_of(number, dimension), ROWS, loss_sum=1.0, loss_count=ROWS)
        self._notes, self._train_s = notes, train_s

    def train(self, round_number: int, difference: Float32Vector) -> LocalUpdate:
        """A round, counted from 1."""
        self._notes.add(BEGUN)
        if self._train_s:
            time.sleep(self._train_s)
        self._notes.add(TRAINED)
        return self._update

    def evaluate(self, difference: Float32Vector, limit: int | None = None) -> _Scores:
        """Nothing is scored."""
        return _Scores()


def build_training(policy: Policy, config: NodeConfig) -> Any:
    """In the place of `node.hospital.build_training`."""
    number = sum(config.node.encode())
    dimension, train_s = int(os.environ[DIMENSION]), float(os.environ.get(TRAIN_S, "0"))
    NotingLog.notes = Notes(config.state / NOTES)
    return FixedTraining(policy.model.base.sha256, dimension, NotingLog.notes, train_s, number)


def with_mechanism(policy: Policy, config: NodeConfig, training: Any, entropy: Entropy) -> Any:
    """In the place of `node.hospital.with_mechanism`: the policies of these rows have no mechanism."""
    return training


def main() -> None:
    vars(service).update(build_training=build_training, with_mechanism=with_mechanism, EventLog=NotingLog)
    command.app(prog_name=command.PROGRAM)


if __name__ == "__main__":
    main()
