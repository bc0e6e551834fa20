"""A policy file that each test may spoil in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

POLICY = """\
version: 1
name: trial
rounds: 5
model:
  base: {name: tiny-fuyu, sha256: "1111111111111111111111111111111111111111111111111111111111111111"}
  strategy: lora
  seed: 7
contract:
  image_size: 32
  vocabulary: [yes, no]
cohort:
  min_nodes: 3
  deadline: 30m
local: {learning_rate: 1e-3, steps: 10}
protection: {method: masking, max_update: 0.25}
privacy: {mechanism: none}
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Callable[..., Path]:
    """Write the policy above with `old` replaced by `new`."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in POLICY, "the spoiled place must exist"
        path = tmp_path / "trial.yaml"
        path.write_text(POLICY.replace(old, new, 1) if old else POLICY, encoding="utf-8")
        return path

    return write
