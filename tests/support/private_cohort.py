"""A cohort under differential privacy whose local work is numbers: the noise is not in them, only its bookkeeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedvlm_secure.policy.schema import Policy
from tests.support.cohort import numeric_policy

PRIVACY: dict[str, Any] = {
    "mechanism": "dp_sgd",
    "epsilon": 8.0,
    "delta": 1e-5,
    "clip_norm": 1.0,
    "sampling_rate": 0.2,
    "steps_per_round": 10,
}


def private_sections(nodes: Sequence[str], *, patients: int = 600, **privacy: Any) -> dict[str, Any]:
    """Sections that turn a numeric policy into a private one for these hospitals."""
    return {
        "privacy": {**PRIVACY, "expected_patients": dict.fromkeys(nodes, patients), **privacy},
        "local": {"steps": None, "batch_size": None, "augment": "none", "schedule": "constant"},
        "weights": "equal",
        "evaluation": {"release": "none"},
        "limits": {"min_patients": 20},
    }


def private_policy(nodes: Sequence[str], rounds: int = 5, **privacy: Any) -> Policy:
    return numeric_policy(rounds=rounds, **private_sections(nodes, **privacy))  # type: ignore[arg-type]
