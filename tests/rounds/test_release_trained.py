"""From a shipped policy to noised totals: the service's own wiring hands over the scores that are due."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.node_config import NodeConfig
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.simulate.memory import ShakeEntropy
from fedvlm_secure.simulate.training import TrainedWork
from fedvlm_secure.types import NodeId
from node.hospital import build_training, with_mechanism
from tests.support.cohort import POLICIES

PATIENTS = 60
NODES = {"coast": 1, "harbour": 2, "valley": 3}


def config(folder: Path, node: str) -> NodeConfig:
    return NodeConfig.model_validate(
        {
            "node": node,
            "state": folder / node,
            "aggregator": "127.0.0.1:7443",
            "population": "phantoms",
            "data": {"phantoms": {"site": node, "seed": 3, "patients": PATIENTS}},
        }
    )


def policy(folder: Path) -> Policy:
    changes = {"rounds": 1, "privacy.steps_per_round": 1, "evaluation.limit": 1}
    return derive(POLICIES / "dp_final_scores.yaml", changes, folder / "short.yaml")


def test_released_totals_count_the_hospitals_test_patients(tmp_path: Path) -> None:
    agreed, works, exact = policy(tmp_path), {}, dict.fromkeys(("vqa", "classification"), 0.0)
    for node in NODES:
        training = build_training(agreed, config(tmp_path, node))
        for task in exact:
            exact[task] += len({row.patient for row in training.test_rows if row.task == task})
        noised = with_mechanism(agreed, config(tmp_path, node), training, ShakeEntropy(0, f"{node}/noise"))
        works[NodeId(node)] = TrainedWork(noised, agreed)
    federation = Federation(agreed, works)
    federation.run()
    rounds = federation.aggregator_self.memory.summaries
    assert len(rounds) == 2 and not rounds[0]["released"]
    for task, numbers in rounds[1]["released"].items():  # type: ignore[attr-defined]
        asked = numbers["right"] + numbers["wrong"]
        assert abs(asked - exact[task]) < 5 * numbers["deviation"] * np.sqrt(2)
    handed = works[NodeId("coast")].train(1, federation.state.model)
    assert not handed.update.any() and handed.right.keys() == handed.wrong.keys() == exact.keys()
    assert sum(handed.right.values()) + sum(handed.wrong.values()) > 2 * STEPS_PER_PATIENT
