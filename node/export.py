"""Hand over the tuned adapter of a hospital's last run: its certified state as files for peft and transformers."""

from __future__ import annotations

from pathlib import Path

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.store.journal import SqliteJournal
from node.approvals import approved_policy


def export_run(state_dir: Path, out: Path, *, base: Path | None = None) -> tuple[Path, ...]:
    """Write the model of the run in this node's journal, as of its last closed round.

    Args:
        state_dir: the node's folder; its service must not be running.
        out: made when missing; gets a PEFT directory and connector.safetensors, as far as the strategy trains them.
        base: this hospital's copy of the base where it is not a shipped one.

    Returns:
        The files written.

    Raises:
        PolicyError: NO_RUN, no run was joined here; BASE_PATH, the policy names no shipped base and `base` is missing.
        StorageError: STATE_IN_USE by the running service, or EXPORT_FAILED.
        ModelError: BASE_FINGERPRINT, or the base cannot be loaded.
    """
    from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
    from fedvlm_secure.vlm.base import load_base, shipped_base
    from fedvlm_secure.vlm.export import export_adapter

    journal = SqliteJournal(state_dir / "journal")
    try:
        memory = NodeMemory(journal)
        if memory.opened_epoch is None or memory.closing is None:
            raise PolicyError("NO_RUN", f"{state_dir.name} has taken part in no run", "export after a run")
        policy = approved_policy(state_dir, memory.manifest.policy_hash)
        difference = memory.stored_state.model
    finally:
        journal.close()
    model = policy.model
    if base is None:
        if model.base.name is None:
            raise PolicyError("BASE_PATH", "the policy names a base by path", "say where it lies here")
        base = shipped_base(model.base.name)
    lora = LoraSettings(r=model.lora.r, alpha=model.lora.alpha, factors=model.lora.factors)
    strategy = "connector+lora" if model.strategy == "two-stage" else model.strategy
    tuned = TunedModel(load_base(base, sha256=model.base.sha256), strategy=strategy, lora=lora, seed=model.seed)
    tuned.load_difference(difference)
    return export_adapter(tuned, out)
