"""SIGKILL at random instants: real processes, real certificates, real SQLite; every run ends with one model for all."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loopback import STALL_S, StubbedConsortium
from benchmarks.stub_node import DIMENSION, TRAIN_S
from fedvlm_secure.cli.children import Child
from fedvlm_secure.cli.hospitals import Hospital
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.types import NodeId
from tests.support.cohort import POLICIES

pytestmark = pytest.mark.e2e

KILLS = 25
ROUNDS = 40
AGGREGATOR = NodeId("aggregator")
NODES = [NodeId(f"node-{at}") for at in range(4)]
CHANGES = {
    "rounds": ROUNDS,
    "evaluation.release": "none",
    "evaluation.every": 1_000,
    "limits.step_norm": 1e9,
    "cohort.deadline": "90s",
    "cohort.epoch_rounds": 7,
}


class Killable(StubbedConsortium):
    """Its aggregator, too, is killed and started again, on the port that the hospitals know."""

    def strike(self, party: NodeId) -> None:
        """SIGKILL, and start again on what is left on the disk."""
        if party != AGGREGATOR:
            self.kill(party)
            self.restart(party)
            return
        self._aggregator.kill()
        command = ("aggregator", "serve", "--policy", str(self._policy), "--home", str(self.home))
        self._aggregator = Child(AGGREGATOR, (*command, "--listen", self._address, "--json"), self.folder / "logs")
        self._aggregator.start()

    @property
    def closed(self) -> int:
        return len(self.progress.get("summaries", ()))  # type: ignore[arg-type]


def test_five_and_twenty_kills_at_random_instants_leave_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DIMENSION, "2000")
    monkeypatch.setenv(TRAIN_S, "0.5")  # so that the rounds outlast the kills on any machine
    rng = np.random.default_rng(20261121)
    policy = tmp_path / "policy.yaml"
    derive(POLICIES / "fedavg.yaml", CHANGES, policy)
    source = {"phantoms": {"site": "coast", "seed": 1, "patients": 20}}  # named in node.yaml, never drawn
    with Killable(tmp_path / "c", policy, [Hospital(node, source) for node in NODES], stall_s=STALL_S) as running:
        running.set_up()
        running.start()
        parties = [AGGREGATOR, *NODES]
        order = [parties[at] for _ in range(KILLS // len(parties)) for at in rng.permutation(len(parties))]
        for strikes, party in enumerate(order):
            running.wait(until=lambda r: r.closed > 0 or bool(r.steps))
            time.sleep(float(rng.uniform(0.1, 0.8)))
            assert running.closed < ROUNDS, f"the run was over after {strikes} kills"
            running.strike(party)
        running.wait()
        closed = running.closed
        states = set()
        for node in NODES:
            journal = SqliteJournal(running.members[node].state / "journal")
            states.add(NodeMemory(journal).state.digest)
            journal.close()
    assert closed == ROUNDS
    assert len(states) == 1
