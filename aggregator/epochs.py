"""The roster of the run under way: what was admitted since takes part from the next epoch on.

HOME/state/roster.toml
"""

from __future__ import annotations

from pathlib import Path

from fedvlm_secure.policy.private_file import read_file, write_private
from fedvlm_secure.policy.roster import Roster, RosterChange, compare, format_roster, parse_roster
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory, Phase


def run_roster(
    state: Path, admitted: Roster, memory: AggregatorMemory, *, new_epoch: bool
) -> tuple[Roster, RosterChange | None]:
    """Whom this process deals with: the members that its epoch began with, until the coordinator opens another.

    Args:
        state: folder of the run in progress.
        admitted: everybody admitted by now.

    Returns:
        The roster in force, and what the admitted one would change, None where both are the same.

    Raises:
        PolicyError: ROSTER_INVALID, the stored roster was changed.
        StorageError: it cannot be read or written.
    """
    path = state / "roster.toml"
    gathering = memory.opened is None or memory.phase is Phase.GATHER
    if new_epoch or gathering or not path.exists():
        write_private(path, format_roster(admitted))
        return admitted, None
    pinned = parse_roster(read_file(path, missing_hint=""), str(path))
    change = compare(pinned, admitted)
    return pinned, change if change.added or change.removed or change.replaced else None
