"""Federation: n node machines and one aggregator machine under a virtual clock, driven message by message."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from fedvlm_secure.errors import FedvlmError, PeerViolation, RunAborted
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.actions import Evaluate, NodeAction, Outbox, Send, Stop, ToNode, Train, Upload
from fedvlm_secure.rounds.aggregator_memory import AggregatorMemory
from fedvlm_secure.rounds.aggregator_run import AggregatorRun
from fedvlm_secure.rounds.node_memory import NodeMemory
from fedvlm_secure.rounds.node_run import NodeRun
from fedvlm_secure.rounds.vectors import HeldVector, StoredVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage, UploadBundle
from fedvlm_secure.simulate.crashes import AGGREGATOR, Crashed, Crashes, journal_of, purse_of
from fedvlm_secure.simulate.hospital import LocalWork, SimulatedNode
from fedvlm_secure.simulate.memory import MemoryBlobs, MemorySpool
from fedvlm_secure.simulate.network import Direction, Network, Parcel, PerfectNetwork
from fedvlm_secure.simulate.purse import MemoryPurse
from fedvlm_secure.simulate.roster import SimulatedRoster
from fedvlm_secure.types import Float32Vector, NodeId

STEP_S = 0.5
"""Virtual seconds that pass at most before heartbeats are heard and deadlines looked at."""

RESTART_S = 1.0
"""Virtual seconds until a process that died runs again."""

Tap = Callable[[str, NodeId, NodeMessage | AggregatorMessage], bool]
"""(direction "up" or "down", node, message) -> deliver it? Tests drop, record or answer here."""


class Federation:
    """Args:
    policy: what the run does.
    works: one local work per hospital.
    seed: of all entropy; equal seeds give equal bytes everywhere.
    tap: sees every message: what goes up when it arrives, what goes down when it is sent.
    purses: every hospital's budget; without it each has one without a limit.
    network: what becomes of each message; without it all arrive at once.
    crashes: who dies where; without it nobody.
    training_s: virtual seconds of one local training.
    """

    def __init__(
        self,
        policy: Policy,
        works: Mapping[NodeId, LocalWork],
        *,
        seed: int = 0,
        tap: Tap | None = None,
        purses: Mapping[NodeId, MemoryPurse] | None = None,
        network: Network | None = None,
        crashes: Crashes | None = None,
        training_s: float = 0.0,
    ) -> None:
        self.now_s = 0.0
        self.policy = policy
        self._tap = tap
        self._network: Network = PerfectNetwork() if network is None else network
        self._training_s = training_s
        self._to_aggregator: dict[NodeId, deque[Parcel]] = {node: deque() for node in works}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._placed = 0
        self._aggregator_up = True
        roster = SimulatedRoster(works, seed)
        self.spool, self.blobs = MemorySpool(), MemoryBlobs()
        journal = journal_of(AGGREGATOR, crashes)
        self.aggregator_self = roster.aggregator(policy, AggregatorMemory(journal), self.spool, self.blobs)
        self.aggregator = AggregatorRun(self.aggregator_self, self.now_s)
        self.purses = {node: MemoryPurse() if purses is None else purses[node] for node in works}
        self.nodes: dict[NodeId, SimulatedNode] = {}
        for node, work in sorted(works.items()):
            purse = purse_of(node, self.purses[node], crashes)
            own = roster.node(node, policy, work, NodeMemory(journal_of(node, crashes)), purse)
            self.nodes[node] = SimulatedNode(own, NodeRun(own), work)
        for node in self.nodes:
            self.connect(node)

    @property
    def state(self) -> ServerState:
        """The aggregator's last certified state."""
        return self.aggregator_self.memory.state

    @property
    def over(self) -> bool:
        """The run is over for everybody who is online."""
        return self.aggregator.finished and all(node.stopped or not node.online for node in self.nodes.values())

    def connect(self, node: NodeId) -> None:
        """(Re)start a node's process from its journal and let it say Hello."""
        simulated = self.nodes[node]
        simulated.own = replace(simulated.own, memory=NodeMemory(simulated.own.memory.journal))
        simulated.run = NodeRun(simulated.own)
        simulated.alive, simulated.stopped = True, False
        simulated.life += 1
        self._link_up(node)

    def drop(self, node: NodeId) -> None:
        """The node's process dies: what was on its way from and to it is lost, its journal stays."""
        self.nodes[node].alive = False
        self._link_down(node)

    def cut(self, node: NodeId) -> None:
        """The node's connection breaks; its process goes on and connects again."""
        if self.nodes[node].online:
            self._link_down(node)
            self._after(self._network.reconnect_s(), lambda: self._reconnect(node))

    def restart_aggregator(self) -> None:
        """The aggregator's process dies and comes back from its journal; every node connects again."""
        online = [node for node, simulated in self.nodes.items() if simulated.online]
        for node in online:
            self._empty_link(node)
        self._start_aggregator()
        for node in online:
            self.connect(node)

    def run(self, until: Callable[[Federation], bool] | None = None, *, limit_s: float = 1e6) -> None:
        """Go on until `until` holds, or else until the run is over for everybody who is online.

        Raises:
            RunAborted: the aggregator ended the run early, or virtual time ran out.
        """
        while not (until(self) if until else self.over):
            if self.step():
                continue
            self._pass_time()
            if self.now_s > limit_s:
                raise RunAborted("SIMULATION_STUCK", f"nothing happened within {limit_s:g} virtual seconds", "")
        if until is None and self.aggregator.error is not None:
            raise self.aggregator.error

    def step(self) -> bool:
        """Hand over one message or do what is due by the clock; False when nothing waits at this instant."""
        if self._timers and self._timers[0][0] <= self.now_s:
            self._living(heapq.heappop(self._timers)[2])
            return True
        arrived = self._arrived()
        if not arrived:
            return False
        parcel = self._network.choose(arrived)
        self._link(parcel.direction, parcel.node).remove(parcel)
        if parcel.direction == "up":
            self._living(lambda: self._receive_at_aggregator(parcel))
        else:
            self._living(lambda: self._receive_at_node(parcel))
        return True

    def _arrived(self) -> list[Parcel]:
        return [parcel for parcel in self._next() if parcel.due_s <= self.now_s]

    def _next(self) -> Iterator[Parcel]:
        """What may arrive next: the first of every stream, or any where the network reorders."""
        for node, simulated in self.nodes.items():
            for link in (self._to_aggregator[node], simulated.inbox):
                yield from link if self._network.reorders else islice(link, 1)

    def _link(self, direction: Direction, node: NodeId) -> deque[Parcel]:
        return self._to_aggregator[node] if direction == "up" else self.nodes[node].inbox

    def _pass_time(self) -> None:
        """To the next thing that happens, or one step; then heartbeats, then deadlines."""
        due_s = [parcel.due_s for parcel in self._next()] + [timer[0] for timer in self._timers[:1]]
        self.now_s = min([self.now_s + STEP_S, *due_s])
        if not self._aggregator_up:
            return
        for node, simulated in self.nodes.items():
            if simulated.online and not simulated.stopped:  # a process that ended beats no more
                self.aggregator.heard(node, self.now_s)
        self._living(lambda: self._deliver(self.aggregator.tick(self.now_s)))

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        self._placed += 1
        heapq.heappush(self._timers, (self.now_s + delay_s, self._placed, act))

    def _living(self, act: Callable[[], None]) -> None:
        """Do it; whose process dies in doing so starts again later from what is durable."""
        try:
            act()
        except Crashed as crash:
            back_s = RESTART_S + self._network.reconnect_s()
            if crash.party == AGGREGATOR:
                self._aggregator_up = False
                for node in self.nodes:
                    self.nodes[node].online = False
                    self._empty_link(node)
                self._after(back_s, self._aggregator_back)
            else:
                node = NodeId(crash.party)
                self.nodes[node].alive = False
                self._after(back_s, lambda: self.connect(node))
                self._after(0.0, lambda: self._link_down(node))

    def _start_aggregator(self) -> None:
        memory = AggregatorMemory(self.aggregator_self.memory.journal)
        self.aggregator_self = replace(self.aggregator_self, memory=memory)
        self.aggregator = AggregatorRun(self.aggregator_self, self.now_s)
        self._aggregator_up = True

    def _aggregator_back(self) -> None:
        self._start_aggregator()
        for node, simulated in self.nodes.items():
            if simulated.alive:
                self._after(self._network.reconnect_s(), lambda node=node: self._reconnect(node))  # type: ignore[misc]

    def _reconnect(self, node: NodeId) -> None:
        if self.nodes[node].alive and not self.nodes[node].online:
            self._link_up(node)

    def _link_up(self, node: NodeId) -> None:
        if not self._aggregator_up:
            return  # it connects when the aggregator is back
        simulated = self.nodes[node]
        self._empty_link(node)
        simulated.online = True
        self._deliver(self.aggregator.connected(node, self.now_s))
        self._send("up", node, simulated.run.hello(), None)

    def _link_down(self, node: NodeId) -> None:
        self.nodes[node].online = False
        self._empty_link(node)
        if self._aggregator_up:
            self._living(lambda: self._deliver(self.aggregator.disconnected(node, self.now_s)))

    def _empty_link(self, node: NodeId) -> None:
        self._to_aggregator[node].clear()
        self.nodes[node].inbox.clear()

    def _send(
        self, way: Direction, node: NodeId, message: NodeMessage | AggregatorMessage, attachment: StoredVector | None
    ) -> None:
        fate = self._network.fate(way, node, message)
        for delay_s in fate.delays_s:
            self._placed += 1
            parcel = Parcel(way, node, message, attachment, self.now_s + delay_s, self._placed)
            self._link(way, node).append(parcel)
        if fate.cut:
            self._after(max(fate.delays_s, default=0.0), lambda: self.cut(node))

    def _deliver(self, outbox: Outbox) -> None:
        for entry in outbox:
            self.deliver(entry)

    def deliver(self, entry: ToNode) -> None:
        """Send one message of the aggregator's, with its attachment."""
        if self.nodes[entry.to].online and (self._tap is None or self._tap("down", entry.to, entry.message)):
            content = None if entry.attachment is None else self.blobs.get(entry.attachment)
            self._send("down", entry.to, entry.message, None if content is None else HeldVector(content))

    def _receive_at_aggregator(self, parcel: Parcel) -> None:
        if self._tap is not None and not self._tap("up", parcel.node, parcel.message):
            return
        try:
            self._deliver(self.aggregator.receive(parcel.node, parcel.message, self.now_s))  # type: ignore[arg-type]
        except PeerViolation as violation:
            self.nodes[parcel.node].violations.append(violation)

    def _receive_at_node(self, parcel: Parcel) -> None:
        simulated = self.nodes[parcel.node]
        try:
            actions = simulated.run.receive(parcel.message, parcel.attachment)  # type: ignore[arg-type]
            self._carry_out(parcel.node, simulated, actions)
        except PeerViolation as violation:
            simulated.violations.append(violation)

    def _carry_out(self, node: NodeId, simulated: SimulatedNode, actions: tuple[NodeAction, ...]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    if simulated.online:
                        self._send("up", node, message, None)
                case Upload(bundle, content):
                    if simulated.online:
                        self._upload(node, bundle, content)
                case Train(round_number, _, state):
                    self._train(node, round_number, state)
                case Evaluate(closed, state, last):
                    simulated.work.evaluate(closed, state, last)
                case Stop():
                    simulated.stopped = True

    def _train(self, node: NodeId, round_number: int, state: Float32Vector) -> None:
        simulated, life = self.nodes[node], self.nodes[node].life

        def done() -> None:
            if simulated.alive and simulated.life == life:
                self._carry_out(node, simulated, self._trained(simulated, round_number, state))

        if self._training_s > 0.0:
            self._after(self._training_s, done)
        else:
            done()

    def _trained(self, simulated: SimulatedNode, round_number: int, state: Float32Vector) -> tuple[NodeAction, ...]:
        try:
            return simulated.run.trained(round_number, simulated.work.train(round_number, state))
        except PeerViolation:
            raise
        except FedvlmError as error:
            return simulated.run.training_failed(error)

    def _upload(self, node: NodeId, bundle: UploadBundle, content: bytes) -> None:
        fate = self._network.fate("up", node, bundle)
        try:
            self.aggregator.check_upload(node, bundle)
        except PeerViolation as violation:
            self.nodes[node].violations.append(violation)
            return
        ctx = bundle.header.ctx
        starts = range(self.spool.held_chunks(ctx, node) * CHUNK_BYTES, len(content), CHUNK_BYTES)
        passing = len(starts) if fate.chunks is None else fate.chunks
        check = self.aggregator.chunk_check(bundle)
        for at in starts[:passing]:
            chunk = content[at : at + CHUNK_BYTES]
            try:
                if check is not None:
                    check(at // CHUNK_BYTES, chunk)
            except PeerViolation as violation:
                self.nodes[node].violations.append(violation)
                return
            self.spool.append(ctx, node, chunk)
        for delay_s in fate.delays_s if passing >= len(starts) else ():
            self._placed += 1
            self._to_aggregator[node].append(Parcel("up", node, bundle, None, self.now_s + delay_s, self._placed))
        if fate.cut:
            self._after(max(fate.delays_s, default=0.0), lambda: self.cut(node))
