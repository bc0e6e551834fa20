"""SimulatedNode: one hospital of a simulated federation: its machine, its journal, its work."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.simulate.network import Parcel
from fedvlm_secure.types import Digest, Float32Vector


class LocalWork(Protocol):
    """What a simulated hospital does by itself: real training, or numbers in a test."""

    @property
    def layout(self) -> UpdateLayout: ...

    @property
    def base_fingerprint(self) -> Digest: ...

    def train(self, round_number: int, state: Float32Vector) -> LocalUpdate:
        """One round of local training from `state`, float32 [d]."""
        ...

    def evaluate(self, closed_rounds: int, state: Float32Vector, last: bool) -> None:
        """Score a state locally."""
        ...


@dataclass
class SimulatedNode:
    """Attributes:
    online: its connection to the aggregator stands.
    alive: its process runs.
    stopped: its machine left the run, or the run is over.
    life: counts its processes: work begun by an earlier one is lost.
    inbox: what is on its way to it.
    violations: what it, or the aggregator of it, refused.
    """

    own: NodeSelf
    run: NodeRun
    work: LocalWork
    online: bool = True
    alive: bool = True
    stopped: bool = False
    life: int = 0
    inbox: deque[Parcel] = field(default_factory=deque)
    violations: list[PeerViolation] = field(default_factory=list)
