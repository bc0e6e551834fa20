"""Drop-outs by script: a hospital is lost when a round reaches a phase, and comes back once that round is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.simulate.federation import Federation
from fedvlm_secure.types import NodeId

PHASES = (Phase.UPLOAD, Phase.SIGN, Phase.REVEAL, Phase.DECRYPT, Phase.CERTIFY)
"""`reveal` comes in masked runs, `decrypt` in encrypted ones."""


@dataclass(frozen=True)
class Drop:
    """`node` is lost when round `round` (counted from 0) reaches `phase`."""

    round: int
    node: NodeId
    phase: Phase

    def __str__(self) -> str:
        return f"{self.round + 1}:{self.node}:{self.phase}"


def parse_drop(text: str, nodes: Sequence[NodeId], rounds: int) -> Drop:
    """Read `ROUND:NODE:PHASE`, rounds counted from 1.

    Raises:
        PolicyError: DROP_WRONG.
    """
    number, _, rest = text.partition(":")
    node, _, phase = rest.partition(":")
    known = [str(one) for one in PHASES]
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= rounds:
        raise _wrong(text, f"the round is not in 1 to {rounds}")
    if node not in nodes:
        raise _wrong(text, f"no hospital of that name; there are {', '.join(nodes)}")
    if phase not in known:
        raise _wrong(text, f"the phase is none of {', '.join(known)}")
    return Drop(int(number) - 1, NodeId(node), Phase(phase))


def _wrong(text: str, cause: str) -> PolicyError:
    return PolicyError(
        "DROP_WRONG", f"--drop {text[:80]!r}: {cause}", "write ROUND:NODE:PHASE, for example 2:coast:upload"
    )


def run_with_drops(federation: Federation, drops: Sequence[Drop]) -> tuple[Drop, ...]:
    """Run to the end, losing and bringing back hospitals on the way.

    Returns:
        The drops that never came due (a phase that the run did not reach).

    Raises:
        RunAborted: too many were lost.
    """
    waiting, away = list(drops), list[Drop]()
    while True:
        federation.run(lambda at: _over(at) or any(_due(at, drop) for drop in waiting) or bool(_back(at, away)))
        for drop in [drop for drop in waiting if _due(federation, drop)]:
            waiting.remove(drop)
            away.append(drop)
            federation.drop(drop.node)
        for drop in _back(federation, away):
            away.remove(drop)
            federation.connect(drop.node)
        if _over(federation):
            federation.run()
            return tuple(waiting)


def _due(federation: Federation, drop: Drop) -> bool:
    aggregator = federation.aggregator
    return aggregator.phase is drop.phase and federation.aggregator_self.memory.plan.round == drop.round


def _back(federation: Federation, away: Sequence[Drop]) -> list[Drop]:
    closed = len(federation.aggregator_self.memory.summaries)
    return [drop for drop in away if closed > drop.round]


def _over(federation: Federation) -> bool:
    return federation.aggregator.finished and all(node.stopped or not node.online for node in federation.nodes.values())
