"""The one thread that drives the machine: calls queue up, each is carried out whole, its messages are sent."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from aggregator.machine import Machine
from aggregator.sessions import Sessions
from fedvlm_secure.errors import PeerViolation, RunAborted
from fedvlm_secure.rounds.actions import Outbox, ToNode
from fedvlm_secure.secagg.messages import Abort, Finished, NodeMessage, UploadBundle
from fedvlm_secure.types import Clock, NodeId

TICK_S = 0.2
_LINGER_S = 10.0

Step = Callable[[Machine, float], Any]


class Driver:
    """Serialises the network's threads onto one machine.

    Every caller waits for its step, so that each stream has at most one step queued and a flood stays with its sender.

    Args:
        machine: used by the thread in `run` alone.
        members: size of the roster: who is told before the service ends.
        observe: called in that thread after each tick; writes down what changed.
        ending: asked before each tick: does the coordinator want the run to end?
    """

    def __init__(
        self,
        machine: Machine,
        sessions: Sessions,
        clock: Clock,
        observe: Callable[[Machine], None],
        *,
        members: int,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._machine = machine
        self._sessions = sessions
        self._clock = clock
        self._observe = observe
        self._ending = ending
        self._farewell = _Farewell(members)
        self._steps: queue.Queue[tuple[Step, Future[Any]]] = queue.Queue()
        self._stopped = False

    # ---- called by the network's threads ----

    def connected(self, node: NodeId) -> None:
        """See `Machine.connected`."""
        self._submit(lambda machine, now_s: self._send(machine.connected(node, now_s)))

    def disconnected(self, node: NodeId) -> None:
        """See `Machine.disconnected`."""
        self._submit(lambda machine, now_s: self._send(machine.disconnected(node, now_s)))

    def heard(self, node: NodeId) -> None:
        """See `Machine.heard`."""
        self._submit(lambda machine, now_s: machine.heard(node, now_s))

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        """See `Machine.check_upload`."""
        return int(self._submit(lambda machine, now_s: machine.check_upload(node, bundle)))

    def chunk_check(self, bundle: UploadBundle) -> Callable[[int, bytes], object] | None:
        """See `Machine.chunk_check`."""
        check: Callable[[int, bytes], object] | None = self._submit(lambda machine, now_s: machine.chunk_check(bundle))
        return check

    def receive(self, node: NodeId, message: NodeMessage) -> None:
        """See `Machine.receive`."""
        self._submit(lambda machine, now_s: self._send(machine.receive(node, message, now_s)))

    def now_s(self) -> float:
        """The service's clock."""
        return self._clock.now_s()

    def _submit(self, step: Step) -> Any:
        done: Future[Any] = Future()
        self._steps.put((step, done))
        if self._stopped:
            self._refuse_waiting()
        return done.result()

    # ---- called by the thread that drives ----

    def run(self, stop: Callable[[], bool]) -> None:
        """Drive until the run has finished and its nodes have left, or until `stop` says so.

        Raises:
            StorageError: the machine could not journal; it must be built again from what is on disk.
        """
        ticked_s = self._clock.now_s() - TICK_S
        try:
            while not stop():
                self._step()
                now_s = self._clock.now_s()
                if now_s - ticked_s >= TICK_S:
                    ticked_s = now_s
                    if self._ending():
                        self._send(self._machine.abort())
                    self._send(self._machine.tick(now_s))
                    self._observe(self._machine)
                if self._machine.finished and self._farewell.is_over(self._sessions.nodes(), now_s):
                    return
        finally:
            self._stopped = True
            self._refuse_waiting()

    def _step(self) -> None:
        try:
            step, done = self._steps.get(timeout=TICK_S)
        except queue.Empty:
            return
        try:
            done.set_result(step(self._machine, self._clock.now_s()))
        except PeerViolation as error:
            done.set_exception(error)
        except BaseException as error:
            done.set_exception(error)
            raise

    def _send(self, outbox: Outbox) -> None:
        item: ToNode
        for item in outbox:
            if self._sessions.deliver(item) and isinstance(item.message, Finished | Abort):
                self._farewell.told(item.to)

    def _refuse_waiting(self) -> None:
        while True:
            try:
                _, done = self._steps.get_nowait()
            except queue.Empty:
                return
            done.set_exception(RunAborted("SERVICE_STOPPING", "the aggregator is stopping", "connect again later"))


class _Farewell:
    """When a finished run may hang up: every member was told and has left, or nobody came for a while."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._told: set[NodeId] = set()
        self._quiet_s: float | None = None

    def told(self, node: NodeId) -> None:
        """The run's end was handed to this node's session."""
        self._told.add(node)
        self._quiet_s = None

    def is_over(self, connected: list[NodeId], now_s: float) -> bool:
        """Asked again and again once the run has finished."""
        if self._quiet_s is None:
            self._quiet_s = now_s
        everybody_left = not connected and len(self._told) == self._members
        return everybody_left or now_s - self._quiet_s > _LINGER_S
