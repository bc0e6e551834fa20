"""A policy that trains for a moment only."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedvlm_secure.cli.demo_policy import default_policy
from fedvlm_secure.policy.derive import derive


@pytest.fixture
def quick_policy(tmp_path: Path) -> Path:
    """policies/fedavg.yaml with two rounds of three small steps."""
    path = tmp_path / "quick.yaml"
    changes = {"name": "quick", "rounds": 2, "local.steps": 3, "local.batch_size": 8, "evaluation.limit": 20}
    derive(default_policy(own_data=False), changes, path)
    return path
