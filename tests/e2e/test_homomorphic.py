"""Real processes under homomorphic aggregation: who loads the library, who decrypts, and that a lost one is no end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.cli.hospitals import phantom_hospitals
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.types import NodeId
from tests.support.cohort import POLICIES

pytestmark = pytest.mark.e2e

MAKER, LOST = NodeId("coast"), NodeId("valley")
"""`coast` makes the key and decrypts; `valley`, the last by name, is asked only where another one is gone."""
ROUNDS = 3


def consortium(folder: Path) -> Consortium:
    changes = {
        "rounds": ROUNDS,
        "local.steps": 2,
        "local.batch_size": 16,
        "evaluation.limit": 10,
        "cohort.deadline": "90s",
    }
    derive(POLICIES / "bfv_fedavg.yaml", changes, folder / "policy.yaml")
    hospitals = phantom_hospitals(4, seed=5, patients=60)
    return Consortium(folder / "consortium", folder / "policy.yaml", hospitals, stall_s=60)


def closed(running: Consortium) -> list[dict[str, Any]]:
    return list(running.progress.get("summaries", ()))  # type: ignore[call-overload]


def test_run_under_bfv_outlives_a_kill_and_the_aggregator_never_loads_the_library(tmp_path: Path) -> None:
    with consortium(tmp_path) as running:
        running.set_up()
        running.start()
        running.wait(until=lambda r: len(closed(r)) >= 1)
        aggregator = Path(f"/proc/{running.pids['aggregator'][-1]}/maps").read_text()
        hospital = Path(f"/proc/{running.pids[MAKER][-1]}/maps").read_text()
        assert "tenseal" in hospital and "tenseal" not in aggregator and "torch" not in aggregator
        running.kill(LOST)
        running.restart(LOST)
        running.wait()
        rounds = closed(running)
        assert [entry["void"] for entry in rounds] == [False] * ROUNDS
        assert all(len(entry["decrypted_by"]) == 2 and not entry["disagreed"] for entry in rounds)
        assert all(1.9 < entry["upload_bytes"] / entry["plain_bytes"] < 2.2 for entry in rounds)
        for member in running.members.values():
            assert any(row["last"] and row["round"] == ROUNDS for row in member.metrics)
