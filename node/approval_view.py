"""What an operator reads before approving: the policy in plain words, with this hospital's model and purse in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.explain import Explanation, explain
from fedvlm_secure.policy.node_config import NodeConfig, load_node_config
from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.projection import Projection, project
from fedvlm_secure.policy.schema import Policy
from node.ledger import Ledger
from node.ledger_chain import ledger_paths
from node.ledger_file import WallClock

USUAL_CONFIG = Path("node.yaml")
UNKNOWN_MODEL = (
    "noise beside the signal: not shown, because without this hospital's base model nobody knows how many values are "
    "trained; give --config node.yaml, or ask `fedvlm policy explain FILE --coordinates N`"
)


@dataclass(frozen=True)
class ApprovalView:
    """Attributes:
    explanation: titled paragraphs, this hospital's own last.
    trained_values: d, None where the model is not known here.
    projection: None under mechanism `none`.
    """

    explanation: Explanation
    trained_values: int | None
    projection: Projection | None


def usual_config(asked: Path | None, state: Path) -> NodeConfig | None:
    """The configuration to look with: the one asked for, or ./node.yaml where it is of this state folder.

    Raises:
        PolicyError: as `load_node_config`; OTHER_STATE: the file asked for is of another folder.
    """
    if asked is None:
        if not USUAL_CONFIG.exists():
            return None
        found = load_node_config(USUAL_CONFIG)
        return found if found.state.resolve() == state.resolve() else None
    config = load_node_config(asked)
    if config.state.resolve() != state.resolve():
        raise PolicyError(
            "OTHER_STATE", f"{asked} is for {config.state}, the approval would go to {state}", f"--state {config.state}"
        )
    return config


def approval_view(policy: Policy, nodes: int, config: NodeConfig | None, wall_s: WallClock) -> ApprovalView:
    """Say what approving means here.

    Args:
        policy: a loaded policy.
        nodes: cohort size.
        config: this hospital's node.yaml, None where it is not known.
        wall_s: the wall clock, for opening the ledger; nothing is written.

    Raises:
        PolicyError: NOISE_DROWNS_SIGNAL with R, EPSILON_EXCEEDED, PATIENTS_MISMATCH, or as `feasibility.check`.
        ModelError: the base named by node.yaml does not fit.
        StorageError: the ledger is in doubt.
    """
    d = None
    if config is not None:
        from node.hospital import trained_values

        d = trained_values(policy, config)
    explanation = explain(policy, nodes, d)
    lines = _here(policy, config, wall_s)
    if lines:
        explanation = Explanation((*explanation.paragraphs, ("At this hospital", lines)))
    return ApprovalView(explanation, d, project(policy, d))


def _here(policy: Policy, config: NodeConfig | None, wall_s: WallClock) -> tuple[str, ...]:
    privacy = policy.privacy
    if not isinstance(privacy, PatientPrivacy):
        return ()
    if config is None:
        return (UNKNOWN_MODEL,)
    if config.node not in privacy.expected_patients:
        raise PolicyError(
            "PATIENTS_MISMATCH",
            f"privacy.expected_patients does not name {config.node}",
            "this policy was made for other hospitals",
        )
    return (
        f"{privacy.expected_patients[config.node]} patients are declared for it, for everybody to see",
        _budget(config, wall_s),
    )


def _budget(config: NodeConfig, wall_s: WallClock) -> str:
    paths = ledger_paths(config.state, config.ledger_anchor)
    if not any(path.exists() for path in (paths.ledger, paths.anchor, paths.key)):
        return "it has no budget yet: fedvlm-node ledger open, then fedvlm-node ledger add"
    ledger = Ledger(paths, wall_s)
    if config.population not in ledger.populations():
        return f"its ledger has no population {config.population} yet: fedvlm-node ledger add"
    purse = ledger.balance(config.population)
    return (
        f"its budget for {config.population}: epsilon {purse.spent:.2f} of {purse.limit:g} is spent, "
        f"{purse.remaining:.2f} left at delta {purse.delta:g}"
    )
