"""The budget of a hospital on this machine, as its operator would open it by hand."""

from __future__ import annotations

import time
from pathlib import Path

from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.types import NodeId
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.main import SystemEntropy


def population_of(node: NodeId) -> str:
    """What a demo's hospital calls its patients."""
    return f"{node}-demo"[:64]


def open_budget(state: Path, node: NodeId, policy: Policy) -> None:
    """Open ledger and population with as much as this one policy asks for; nothing where it has no mechanism.

    Raises:
        StorageError: LEDGER_EXISTS, or an I/O error.
    """
    if isinstance(policy.privacy, PatientPrivacy):
        ledger = Ledger.create(ledger_paths(state), SystemEntropy(), lambda: int(time.time()))
        ledger.add_population(population_of(node), delta=policy.privacy.delta, epsilon_limit=policy.privacy.epsilon)
