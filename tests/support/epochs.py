"""A run whose membership changes: rosters are pinned anew, operators approve again, the aggregator gathers again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from fedvlm_secure.rounds.aggregator_memory import Phase
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.simulate.crashes import Crashes
from fedvlm_secure.simulate.federation import Federation, Tap
from fedvlm_secure.simulate.hospital import SimulatedNode
from fedvlm_secure.simulate.memory import MemoryJournal
from fedvlm_secure.types import NodeId
from tests.support.cohort import Cohort


class ChangingRun:
    """Args:
    everybody: one letter for each hospital that ever takes part.
    members: those of the first roster.
    """

    def __init__(
        self,
        everybody: str,
        members: str,
        *,
        rounds: int = 4,
        tap: Tap | None = None,
        crashes: Crashes | None = None,
        **changes: Any,
    ) -> None:
        self.cohort = Cohort(len(everybody), dimension=20, rounds=rounds, tap=tap, crashes=crashes, **changes)
        self.federation: Federation = self.cohort.federation
        self.identities = dict(self.federation.aggregator_self.identities)
        for node in everybody:
            self.federation.drop(NodeId(node))
        self.restart_with(members)
        self.connect(members)

    def node(self, name: str) -> SimulatedNode:
        return self.federation.nodes[NodeId(name)]

    @property
    def phase(self) -> Phase:
        return self.federation.aggregator.phase

    @property
    def closed(self) -> int:
        """Rounds closed so far."""
        return len(self.cohort.summaries())

    def pin(self, members: str, at: str) -> None:
        """These hospitals pin the roster of these members."""
        for name in at:
            identities = {NodeId(member): self.identities[NodeId(member)] for member in members}
            simulated = self.node(name)
            simulated.own = dataclasses.replace(simulated.own, identities=identities)

    def approve(self, names: str) -> None:
        """These operators approve the policy once more."""
        for name in names:
            simulated = self.node(name)
            simulated.own = dataclasses.replace(simulated.own, approval=simulated.own.approval + "+")

    def renew(self, name: str, signer: Signer) -> None:
        """This hospital has a new identity from here on; who pins a roster later learns of it."""
        self.identities[NodeId(name)] = signer.public
        self.node(name).own = dataclasses.replace(self.node(name).own, signer=signer)

    def restart_with(self, members: str) -> None:
        """Every process stops; the aggregator's and the members' next ones know this roster."""
        for name in self.federation.nodes:
            if self.federation.nodes[name].online:
                self.federation.drop(name)
        roster = {NodeId(member): self.identities[NodeId(member)] for member in members}
        self.federation.aggregator_self = dataclasses.replace(self.federation.aggregator_self, identities=roster)
        self.federation.restart_aggregator()
        self.pin(members, at=members)

    def connect(self, names: str) -> None:
        for name in names:
            self.federation.connect(NodeId(name))

    def change(self, members: str) -> None:
        """The coordinator opens the next epoch for these members, whose operators all agree."""
        self.restart_with(members)
        self.federation.aggregator.new_epoch()
        self.approve(members)
        self.connect(members)

    def run(self, until: Phase | Callable[[Federation], bool] | None = None) -> None:
        self.cohort.run(until)

    def run_to(self, rounds: int, phase: Phase = Phase.UPLOAD) -> None:
        """Until so many rounds are closed and the next one has come to a phase."""
        self.run(lambda federation: self.closed == rounds and federation.aggregator.phase is phase)

    def agreed(self, names: str) -> bool:
        """Whether these hospitals stand where the aggregator stands."""
        memory = self.federation.aggregator_self.memory
        return all(self.node(name).own.memory.closing == memory.closing for name in names)

    def forget(self, name: str) -> None:
        """The hospital loses its state directory."""

        simulated = self.node(name)
        simulated.own = dataclasses.replace(simulated.own, memory=NodeMemory(MemoryJournal()), approval="lost")
        simulated.run = NodeRun(simulated.own)


@dataclasses.dataclass
class CrashInChange:
    """`party` dies at its `nth` crash point after `armed` is set, counted from 1, before and after each commit."""

    party: str
    nth: int
    armed: bool = False
    struck: str = ""
    _seen: int = 0

    def strikes(self, party: str, points: Iterable[str]) -> str | None:
        if not self.armed or self.struck or party != self.party:
            return None
        self._seen += 1
        if self._seen < self.nth:
            return None
        self.struck = next(iter(points))
        return self.struck
