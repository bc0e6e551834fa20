"""Who is connected: one session per node, with what waits to be sent to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedvlm_secure.errors import IdentityError, PeerViolation
from fedvlm_secure.rounds.actions import ToNode
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire.codec import to_wire
from fedvlm_secure.wire.envelopes import AggregatorEnvelope, enclose

SILENT_S = 10.0
"""A session that was silent so long gives way to a newer one of the same node. Heartbeats come three times as often."""

_MAX_WAITING = 256
_MAX_CALLS = 6


@dataclass(eq=False)
class Session:
    """One live stream to a node. `outgoing` ends with None."""

    node: NodeId
    peer: str
    heard_s: float
    cancel: Callable[[], object]
    outgoing: queue.Queue[bytes | None] = field(default_factory=lambda: queue.Queue(_MAX_WAITING))

    def messages(self) -> Iterator[bytes]:
        """What is to be sent, until the session ends."""
        while (raw := self.outgoing.get()) is not None:
            yield raw

    def end(self) -> None:
        """Let `messages` come to its end, also when the queue is full."""
        while True:
            try:
                return self.outgoing.put_nowait(None)
            except queue.Full:
                self._drop_one()

    def _drop_one(self) -> None:
        try:
            self.outgoing.get_nowait()
        except queue.Empty:
            return


class Sessions:
    """The register of sessions and open calls. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[NodeId, Session] = {}
        self._calls: dict[NodeId, int] = {}

    def open(self, session: Session) -> Session | None:
        """Enter a session.

        Returns:
            The silent session of the same node that it replaces, or None.

        Raises:
            IdentityError: DUPLICATE_SESSION, the node has a session that speaks.
        """
        with self._lock:
            older = self._live.get(session.node)
            if older is not None and session.heard_s - older.heard_s < SILENT_S:
                raise IdentityError(
                    "DUPLICATE_SESSION",
                    f"{session.node} is connected already from {older.peer}; a second session from {session.peer}",
                    "if only one service of this hospital runs, its key may have been copied",
                )
            self._live[session.node] = session
            return older

    def close(self, session: Session) -> bool:
        """Take a session out. Returns whether it was the node's present one."""
        session.end()
        with self._lock:
            present = self._live.get(session.node) is session
            if present:
                del self._live[session.node]
            return present

    def deliver(self, item: ToNode) -> bool:
        """Queue a message; returns whether there was a session to take it.

        Without one it is dropped: the machine repeats what is owed when the node returns.
        """
        with self._lock:
            session = self._live.get(item.to)
        if session is None:
            return False
        try:
            raw = to_wire(enclose(AggregatorEnvelope, item.message, attachment=item.attachment))
            session.outgoing.put_nowait(raw)
        except queue.Full:
            session.cancel()  # it reads nothing; when it reconnects the machine repeats what is owed
            return False
        return True

    def live(self) -> list[Session]:
        """Every session."""
        with self._lock:
            return list(self._live.values())

    def nodes(self) -> list[NodeId]:
        """Nodes with a session, sorted."""
        with self._lock:
            return sorted(self._live)

    def end_all(self) -> None:
        """Let every session end after what is queued for it."""
        for session in self.live():
            session.end()

    def enter_call(self, node: NodeId) -> None:
        """Count one more call of a node.

        Raises:
            PeerViolation: TOO_MANY_CALLS.
        """
        with self._lock:
            if self._calls.get(node, 0) >= _MAX_CALLS:
                raise PeerViolation(
                    "TOO_MANY_CALLS", f"{node} has {_MAX_CALLS} calls open", "close the earlier ones first"
                )
            self._calls[node] = self._calls.get(node, 0) + 1

    def leave_call(self, node: NodeId) -> None:
        """Count one call less."""
        with self._lock:
            self._calls[node] -= 1
