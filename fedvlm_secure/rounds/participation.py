"""Who took part in the last rounds, and the pattern of absences that isolates somebody.

Two sums over sets that differ by a few hospitals show, as far as the model hardly moved in between, what these few
sent. One absence is ordinary; the same hospital in and out again and again gives a lying aggregator many differences,
whose mean is less and less noisy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from fedvlm_secure import canonical
from fedvlm_secure.types import NodeId

WINDOW = 16
"""Rounds that are looked back on."""

MOST_CHANGES = 2
"""How often one hospital may go out or come in within the window, in a group that the rest does not hide."""

PATTERN_CODE = "PARTICIPATION_PATTERN"

Participation = Mapping[int, Sequence[NodeId]]
"""Survivors by round."""


def find_pattern(
    history: Participation, round_number: int, survivors: Sequence[NodeId], colluding: int
) -> tuple[NodeId, ...]:
    """The hospitals that a further set would isolate once too often; empty where there is none.

    A change from one set to the next counts for a hospital that goes out, or comes in, with fewer than c + 2 of them
    in all: c may lie, and two that do not hide each other.

    Args:
        history: sets of earlier rounds; those of this round or beyond the window do not count.
        colluding: c.
    """
    earlier = [history[number] for number in sorted(history) if round_number - WINDOW <= number < round_number]
    sets = [set(one) for one in (*earlier, survivors)]
    changes: Counter[NodeId] = Counter()
    isolated: set[NodeId] = set()
    for before, after in pairwise(sets):
        sides = [side for side in (before - after, after - before) if len(side) < colluding + 2]
        isolated = set().union(*sides)
        changes.update(isolated)
    return tuple(sorted(node for node in isolated if changes[node] > MOST_CHANGES))


def isolation_warning(isolated: Sequence[NodeId]) -> str:
    """What a pattern means to an operator, in one line."""
    return (
        f"{', '.join(isolated)} went out of the sum and came in again too often in the last rounds: "
        "the mean of the differences would show these hospitals' updates"
    )


def with_set(history: Participation, round_number: int, survivors: Sequence[NodeId]) -> bytes:
    """Journal form of the history with this set, without what has left the window."""
    kept = {number: one for number, one in history.items() if number > round_number - WINDOW}
    kept[round_number] = survivors
    return canonical.encode([[number, list(kept[number])] for number in sorted(kept)])


def read_participation(raw: bytes | None) -> dict[int, tuple[NodeId, ...]]:
    """Inverse of `with_set`; empty for None."""
    stored = [] if raw is None else canonical.decode(raw)
    return {int(number): tuple(NodeId(node) for node in nodes) for number, nodes in stored}
