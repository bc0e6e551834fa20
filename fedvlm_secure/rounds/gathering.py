"""Gathering: who came for the epoch that is being set up, the first one or a later one with other members."""

from __future__ import annotations

from collections.abc import Iterable

from fedvlm_secure.errors import RunAborted
from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.aggregator_setup import AggregatorSetup
from fedvlm_secure.secagg.messages import Abort, Hello
from fedvlm_secure.types import NodeId

NEW_EPOCH = Abort(
    code="NEW_EPOCH",
    cause="the run goes on with other members",
    hint="pin the new roster, run fedvlm-node approve POLICY, and start this node again",
)
"""Why nodes leave when the coordinator changes the membership."""


class Gathering:
    """In memory only: a restart waits for everybody.

    Args:
        now_s: when the wait began.

    Attributes:
        greeted: the last Hello of each node that is connected and may take part.
    """

    def __init__(self, own: AggregatorSelf, setup: AggregatorSetup, now_s: float) -> None:
        self._own, self._setup = own, setup
        self._since_s: float | None = now_s  # None: from the next look on
        self.greeted: dict[NodeId, Hello] = {}
        self._waiting: dict[NodeId, Hello] = {}  # for the next epoch, with no part in the round under way

    def may_wait(self, hello: Hello, code: str) -> bool:
        """Whether a node that this epoch refuses is kept for the next one, which the coordinator has asked for."""
        waits = self._own.memory.epoch_wanted and not hello.approval_used_by and code in ("NOT_IN_RUN", "STATE_LOST")
        if waits:
            self._waiting[hello.node] = hello
        return waits

    def gone(self, node: NodeId) -> None:
        """Its connection ended."""
        self.greeted.pop(node, None)
        self._waiting.pop(node, None)

    def is_complete(self, now_s: float) -> bool:
        """Everybody on the roster is there, or enough of them at the set-up deadline.

        Raises:
            RunAborted: COHORT_TOO_SMALL, for a new run. One that is under way loses nothing by waiting.
        """
        cohort, there = self._own.policy.cohort, len(self.greeted)
        if self._since_s is None:
            self._since_s = now_s
        if there >= len(self._own.identities):
            return True
        if now_s - self._since_s < cohort.setup_deadline:
            return False
        if there < cohort.min_nodes and self._own.memory.opened is None:
            raise RunAborted(
                "COHORT_TOO_SMALL",
                f"{there} hospitals came within the set-up deadline, {cohort.min_nodes} are needed",
                "start the hospitals' nodes, then the aggregator again",
            )
        return there >= cohort.min_nodes

    def again(self, reason: Abort) -> Outbox:
        """Wait for hospitals anew; the run's state is kept. Who is connected leaves, unless it has a new approval."""
        run_hash, leaving = self._own.memory.manifest.run_hash, set(self.greeted)
        if self._own.memory.phase is not Phase.GATHER:
            self._setup.gather_again()
            hellos = self.greeted.items()
            leaving = {node for node, hello in hellos if hello.approval_used_by or hello.run_hash != run_hash}
        for node in leaving:
            del self.greeted[node]
        self.greeted.update(self._waiting)
        self._waiting.clear()
        self._since_s = None
        return tuple(ToNode(node, reason) for node in sorted(leaving))

    def opening(self, nodes: Iterable[NodeId]) -> Outbox:
        """S0, with the state for those who have to take it over."""
        opened = self._own.memory.opened
        if opened is None:
            return ()
        members = [node for node in nodes if node in opened.manifest.nodes]
        return tuple(ToNode(node, opened, self._setup.start_for(self.greeted.get(node))) for node in members)
