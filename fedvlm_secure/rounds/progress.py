"""Where a run stands at the aggregator: what its status file and command show."""

from __future__ import annotations

from collections.abc import Sequence

from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.types import NodeId


def describe_progress(memory: AggregatorMemory, rounds: int, connected: Sequence[NodeId]) -> dict[str, object]:
    """Phase, round, who is there, a summary per closed round: JSON-able, no secrets, no update."""
    opened = memory.opened
    in_round = opened is not None and memory.journal.get("plan") is not None
    return {
        "phase": str(memory.phase),
        "run": None if opened is None else opened.manifest.run_id.hex(),
        "nodes": [] if opened is None else list(opened.manifest.nodes),
        "threshold": None if opened is None else opened.manifest.threshold,
        "colluding": None if opened is None else opened.manifest.colluding,
        "dimension": None if opened is None else opened.manifest.dimension,
        "rounds": rounds,
        "round": memory.plan.round if in_round else None,
        "attempt": memory.plan.attempt if in_round else None,
        "connected": list(connected),
        "uploaded": list(memory.uploaded) if in_round else [],
        "summaries": memory.summaries,
    }
