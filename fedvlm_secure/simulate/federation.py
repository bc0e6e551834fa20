"""Federation: n node machines and one aggregator machine under a virtual clock, driven message by message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedvlm_secure.errors import FedvlmError, PeerViolation, RunAborted
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import Evaluate, LocalUpdate, NodeAction, Outbox, Send, Stop, ToNode, Train, Upload
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.aggregator_run import AggregatorRun
from fedvlm_secure.rounds.aggregator_self import AggregatorSelf
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.node_self import NodeSelf
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, UploadBundle
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.simulate.memory import MemoryBlobs, MemoryJournal, MemorySpool, ShakeEntropy
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.types import Digest, Float32Vector, NodeId

STEP_S = 0.5
"""Virtual seconds that pass whenever nothing else can happen."""

IDENTITY_BYTES = 32


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
    """One hospital: its machine, its journal, its work."""

    own: NodeSelf
    run: NodeRun
    work: LocalWork
    online: bool = True
    stopped: bool = False
    inbox: deque[tuple[AggregatorMessage, bytes | None]] = field(default_factory=deque)
    violations: list[PeerViolation] = field(default_factory=list)


Tap = Callable[[str, NodeId, NodeMessage | AggregatorMessage], bool]
"""(direction "up" or "down", node, message) -> deliver it? Tests drop, record or answer here."""


class Federation:
    """Args:
    policy: what the run does.
    works: one local work per hospital.
    seed: of all entropy; equal seeds give equal bytes everywhere.
    tap: sees every message before it is delivered.
    purses: every hospital's budget; without it each has one without a limit.
    """

    def __init__(
        self,
        policy: Policy,
        works: Mapping[NodeId, LocalWork],
        *,
        seed: int = 0,
        tap: Tap | None = None,
        purses: Mapping[NodeId, MemoryPurse] | None = None,
    ) -> None:
        self.now_s = 0.0
        self.policy = policy
        self._seed = seed
        self._tap = tap
        signers = {node: _signer(seed, node) for node in works}
        identities = {node: signer.public for node, signer in signers.items()}
        aggregator = _signer(seed, "aggregator/identity")
        self.spool = MemorySpool()
        self.blobs = MemoryBlobs()
        self.aggregator_self = AggregatorSelf(
            policy=policy,
            identities=identities,
            signer=aggregator,
            memory=AggregatorMemory(MemoryJournal()),
            spool=self.spool,
            blobs=self.blobs,
            entropy=ShakeEntropy(seed, "aggregator"),
        )
        self.aggregator = AggregatorRun(self.aggregator_self, self.now_s)
        self.purses = {node: MemoryPurse() if purses is None else purses[node] for node in works}
        self.nodes: dict[NodeId, SimulatedNode] = {}
        for node, work in sorted(works.items()):
            own = NodeSelf(
                me=node,
                signer=signers[node],
                policy=policy,
                approval="simulated",
                aggregator=aggregator.public,
                identities=identities,
                population=node,
                base_fingerprint=work.base_fingerprint,
                layout=work.layout,
                memory=NodeMemory(MemoryJournal()),
                entropy=ShakeEntropy(seed, node),
                rounding=ShakeEntropy(seed, f"{node}/rounding"),
                step_norm=policy.limits.step_norm,
                min_nodes=policy.cohort.min_nodes,
                purse=self.purses[node],
            )
            self.nodes[node] = SimulatedNode(own, NodeRun(own), work)
        self._to_aggregator: deque[tuple[NodeId, NodeMessage]] = deque()
        for node in self.nodes:
            self.connect(node)

    @property
    def state(self) -> ServerState:
        """The aggregator's last certified state."""
        return self.aggregator_self.memory.state

    def connect(self, node: NodeId) -> None:
        """(Re)start a node from its journal and let it say Hello."""
        simulated = self.nodes[node]
        simulated.run = NodeRun(simulated.own)
        simulated.online, simulated.stopped = True, False
        simulated.inbox.clear()
        self.aggregator.connected(node, self.now_s)
        self._to_aggregator.append((node, simulated.run.hello()))

    def drop(self, node: NodeId) -> None:
        """The node's process dies: what was on its way to it is lost, its journal stays."""
        simulated = self.nodes[node]
        simulated.online = False
        simulated.inbox.clear()
        self._to_aggregator = deque(entry for entry in self._to_aggregator if entry[0] != node)
        self._deliver(self.aggregator.disconnected(node, self.now_s))

    def restart_aggregator(self) -> None:
        """The aggregator's process dies and comes back from its journal; every node connects again."""
        self._to_aggregator.clear()
        self.aggregator = AggregatorRun(self.aggregator_self, self.now_s)
        for node, simulated in self.nodes.items():
            if simulated.online:
                self.connect(node)

    def run(self, until: Callable[[Federation], bool] | None = None, *, limit_s: float = 1e6) -> None:
        """Go on until `until` holds, or else until the run is over for everybody who is online.

        Raises:
            RunAborted: the aggregator ended the run early, or virtual time ran out.
        """
        while not (until(self) if until else self._over()):
            if self.step():
                continue
            self.now_s += STEP_S
            if self.now_s > limit_s:
                raise RunAborted("SIMULATION_STUCK", f"nothing happened within {limit_s:g} virtual seconds", "")
            for node, simulated in self.nodes.items():
                if simulated.online:
                    self.aggregator.heard(node, self.now_s)
            self._deliver(self.aggregator.tick(self.now_s))
        if until is None and self.aggregator.error is not None:
            raise self.aggregator.error

    def _over(self) -> bool:
        return self.aggregator.finished and all(n.stopped or not n.online for n in self.nodes.values())

    def step(self) -> bool:
        """Deliver one message, the nodes' inboxes first by name; False when none waits."""
        if self._to_aggregator:
            node, message = self._to_aggregator.popleft()
            self._receive_at_aggregator(node, message)
            return True
        for node, simulated in self.nodes.items():
            if simulated.inbox and simulated.online:
                self._receive_at_node(node, simulated)
                return True
        return False

    def _receive_at_aggregator(self, node: NodeId, message: NodeMessage) -> None:
        if self._tap is not None and not self._tap("up", node, message):
            return
        try:
            self._deliver(self.aggregator.receive(node, message, self.now_s))
        except PeerViolation as violation:
            self.nodes[node].violations.append(violation)

    def _deliver(self, outbox: Outbox) -> None:
        for entry in outbox:
            self.deliver(entry)

    def deliver(self, entry: ToNode) -> None:
        """Put one message into its node's inbox, with its attachment."""
        simulated = self.nodes[entry.to]
        if simulated.online and (self._tap is None or self._tap("down", entry.to, entry.message)):
            content = None if entry.attachment is None else self.blobs.get(entry.attachment)
            simulated.inbox.append((entry.message, content))

    def _receive_at_node(self, node: NodeId, simulated: SimulatedNode) -> None:
        message, attachment = simulated.inbox.popleft()
        try:
            self._carry_out(node, simulated, simulated.run.receive(message, attachment))
        except PeerViolation as violation:
            simulated.violations.append(violation)

    def _carry_out(self, node: NodeId, simulated: SimulatedNode, actions: tuple[NodeAction, ...]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self._to_aggregator.append((node, message))
                case Upload(bundle, content):
                    self._upload(node, bundle, content)
                case Train(round_number, _, state):
                    self._carry_out(node, simulated, self._train(simulated, round_number, state))
                case Evaluate(closed, state, last):
                    simulated.work.evaluate(closed, state, last)
                case Stop():
                    simulated.stopped = True

    def _train(self, simulated: SimulatedNode, round_number: int, state: Float32Vector) -> tuple[NodeAction, ...]:
        try:
            return simulated.run.trained(round_number, simulated.work.train(round_number, state))
        except PeerViolation:
            raise
        except FedvlmError as error:
            return simulated.run.training_failed(error)

    def _upload(self, node: NodeId, bundle: UploadBundle, content: bytes) -> None:
        try:
            self.aggregator.check_upload(node, bundle)
        except PeerViolation as violation:
            self.nodes[node].violations.append(violation)
            return
        ctx = bundle.header.ctx
        for at in range(self.spool.held_chunks(ctx, node) * CHUNK_BYTES, len(content), CHUNK_BYTES):
            self.spool.append(ctx, node, content[at : at + CHUNK_BYTES])
        self._to_aggregator.append((node, bundle))


def _signer(seed: int, label: str) -> Signer:
    raw = ShakeEntropy(seed, f"identity/{label}").bytes(IDENTITY_BYTES)
    return Signer(Ed25519PrivateKey.from_private_bytes(raw))
