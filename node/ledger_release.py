"""Free what a run reserved and will never spend, once that run is over at this node."""

from __future__ import annotations

from pathlib import Path

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.types import Digest
from node.ledger import Ledger
from node.pause import KillSwitch

SHORTEST_PREFIX = 8
_OVER = ("run/finished", "run/aborted", "run/withdrawn")


def release(ledger: Ledger, state: Path, prefix: str) -> Digest:
    """Close a run that left a reservation behind. What it spent stays spent, and it can spend no more.

    Args:
        state: the node's folder; its service must not be running.
        prefix: the first digits, at least 8, of the run's hash as `fedvlm-node ledger` shows it.

    Returns:
        The run's hash.

    Raises:
        PolicyError: RUN_UNKNOWN (no open reservation, or several, begin like that), RUN_UNDER_WAY.
        StorageError: STATE_IN_USE, or ledger or journal cannot be read.
    """
    found = [run for run in ledger.open_runs() if run.hex().startswith(prefix.lower())]
    if len(prefix) < SHORTEST_PREFIX or len(found) != 1:
        raise PolicyError(
            "RUN_UNKNOWN",
            f"{len(found)} runs with a reservation begin with {prefix[:64]!r}",
            f"give at least {SHORTEST_PREFIX} digits of a run that `fedvlm-node ledger` lists as reserving",
        )
    if not _is_over(state, found[0]):
        raise PolicyError(
            "RUN_UNDER_WAY",
            f"run {found[0].hex()[:16]} is neither finished, aborted nor withdrawn here; its service may go on with it",
            "leave it first: fedvlm-node withdraw",
        )
    ledger.close_run(found[0])
    return found[0]


def _is_over(state: Path, run: Digest) -> bool:
    """Whether the journal's run is another one, or has ended. A closed run can never spend, whatever comes later."""
    if not (state / "journal" / "journal.sqlite").exists():
        return True
    journal = SqliteJournal(state / "journal")
    try:
        opened = NodeMemory(journal).opened_epoch
        if opened is None or opened.manifest.run_hash != run:
            return True
        return KillSwitch(state).withdrawn or any(journal.get(key) is not None for key in _OVER)
    finally:
        journal.close()
