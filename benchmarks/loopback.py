"""A whole consortium on loopback with mutual TLS, real services on both sides; only training is a fixed vector."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure import process_bytes
from benchmarks.stub_node import BEGUN, DIMENSION, MEMORY, NOTES, PLANNED, TRAIN_S, TRAINED, UPLOADED
from fedvlm_secure.cli.children import Child
from fedvlm_secure.cli.consortium import AGGREGATOR, Consortium, Member
from fedvlm_secure.cli.hospitals import Hospital
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.types import NodeId
from node.keystore import create_keystore

POLICIES = Path(__file__).resolve().parents[1] / "policies"
MASKED, CLEAR, ENCRYPTED = "fedavg.yaml", "unprotected.yaml", "bfv_fedavg.yaml"
STALL_S = 300.0
NOTED = (PLANNED, BEGUN, TRAINED, UPLOADED)
_CHANGES: Mapping[str, object] = {
    "evaluation.release": "none",
    "evaluation.every": 100_000,
    "limits.step_norm": 1e9,
    "cohort.deadline": "10m",
    "cohort.setup_deadline": "10m",
}


class StubbedConsortium(Consortium):
    """Its hospitals run `benchmarks.stub_node` in the place of `node`."""

    def _make_member(self, hospital: Hospital) -> Member:
        state = self.folder / "hospitals" / hospital.node
        keystore = create_keystore(state, hospital.node)
        arguments = ("benchmarks.stub_node", "serve", "--config", str(state / "node.yaml"), "--json")
        member = Member(hospital, state, Child(hospital.node, arguments, self.folder / "logs"), keystore)
        self.members[hospital.node] = member
        return member


def set_up(folder: Path, policy: Path, *, nodes: int) -> StubbedConsortium:
    """Keys, certificates, roster and approvals of so many hospitals; nothing runs yet."""
    source = {"phantoms": {"site": "coast", "seed": 1, "patients": 20}}  # named in node.yaml, never drawn
    hospitals = [Hospital(NodeId(f"node-{at:03d}"), source) for at in range(nodes)]
    running = StubbedConsortium(folder / "consortium", policy, hospitals, name="bench", stall_s=STALL_S)
    running.set_up()
    return running


@dataclass(frozen=True)
class Rounds:
    """What a run's rounds took. Times are medians over the hospitals, by round.

    Args:
        wall_s: from one round's begin of training to the next one's.
        upload_s: from the end of training until the aggregator holds the upload.
        upload_peak_bytes: the most that a hospital's resident memory rose from the plan on, when the update is there
            already, until the upload is held: a copy of the state, masks, and whatever encodes, journals and sends.
        result_peak_bytes: and from there to the next round: sum, server step, new state.
        aggregator_peak_bytes: the most that the aggregator's resident memory rose from listening to the end.
    """

    wall_s: tuple[float, ...]
    upload_s: tuple[float, ...]
    upload_peak_bytes: int
    result_peak_bytes: int
    aggregator_peak_bytes: int


def run_rounds(
    *, nodes: int, dimension: int, rounds: int, policy: str = MASKED, train_s: float = 0.0, memory: bool = True
) -> Rounds:
    """One run.

    Args:
        policy: of the shipped ones, by file name.
        memory: whether peaks are forgotten between rounds, which takes tens of milliseconds; else they mean nothing.
        rounds: at least 4; the first is not counted, the last has no next one to be measured by.

    Raises:
        RunAborted, ChildFailed: the run did not end well.
    """
    with tempfile.TemporaryDirectory() as name, _environment(dimension, train_s, memory=memory):
        folder = Path(name)
        derived = folder / "policy.yaml"
        derive(POLICIES / policy, {**_CHANGES, "rounds": rounds}, derived)
        with set_up(folder, derived, nodes=nodes) as running:
            running.start()
            aggregator = running.pids[AGGREGATOR][-1]
            listening, peaks = process_bytes("VmRSS", aggregator), [0]
            running.wait(lambda _: peaks.append(process_bytes("VmHWM", aggregator)))
            notes = [_notes(member.state / NOTES) for member in running.members.values()]
    planned, begun, trained, uploaded = ([[n for n in own if n["what"] == what] for own in notes] for what in NOTED)
    return Rounds(
        wall_s=_medians([[after["at_s"] - before["at_s"] for before, after in pairwise(own)] for own in begun]),
        upload_s=_medians([_between(*pair) for pair in zip(trained, uploaded, strict=True)]),
        upload_peak_bytes=max(int(note["peak_beyond_bytes"]) for own in uploaded for note in own),
        result_peak_bytes=max(int(note["peak_beyond_bytes"]) for own in planned for note in own[1:]),
        aggregator_peak_bytes=max(peaks) - listening,
    )


Note = dict[str, Any]


def _between(before: Sequence[Note], after: Sequence[Note]) -> list[float]:
    return [two["at_s"] - one["at_s"] for one, two in zip(before, after, strict=True)]


def _medians(by_hospital: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(statistics.median(of_round) for of_round in zip(*by_hospital, strict=True))


def _notes(path: Path) -> list[Note]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def _environment(dimension: int, train_s: float, *, memory: bool) -> Iterator[None]:
    """What the stubbed hospitals read; children inherit it."""
    before = dict(os.environ)
    os.environ |= {DIMENSION: str(dimension), TRAIN_S: str(train_s), MEMORY: "1" if memory else ""}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def fsync_s(folder: Path, *, size_bytes: int = 4096, times: int = 50) -> float:
    """Median time of one write and fsync on the disk that holds the journals."""
    taken = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(times):
            start_s = time.perf_counter()
            file.write(bytes(size_bytes))
            file.flush()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start_s)
    return statistics.median(taken)
