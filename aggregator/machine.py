"""What the service asks of the machine that runs the protocol; `rounds.aggregator_run.AggregatorRun` is the one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.rounds.actions import Outbox
from fedvlm_secure.secagg.messages import NodeMessage, UploadBundle
from fedvlm_secure.types import NodeId


class Machine(Protocol):
    """One run, one thread. Every method journals before it returns; times are seconds of one clock."""

    @property
    def finished(self) -> bool:
        """The last round is certified, or the run has ended."""
        ...

    @property
    def error(self) -> FedvlmError | None:
        """Why the run ended early."""
        ...

    def connected(self, node: NodeId, now_s: float) -> Outbox:
        """A node's session stands; its Hello follows."""
        ...

    def disconnected(self, node: NodeId, now_s: float) -> Outbox:
        """A node's session is gone."""
        ...

    def heard(self, node: NodeId, now_s: float) -> None:
        """A heartbeat or a chunk came."""
        ...

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        """Bytes of vector to expect; raises PeerViolation before anything is allocated."""
        ...

    def chunk_check(self, bundle: UploadBundle) -> Callable[[int, bytes], object] | None:
        """What each chunk (index, content) of a checked upload must stand as it comes; callable in any thread."""
        ...

    def receive(self, node: NodeId, message: NodeMessage, now_s: float) -> Outbox:
        """Take one message; an UploadBundle only once its whole vector is in the spool."""
        ...

    def abort(self) -> Outbox:
        """The coordinator ends the run for everybody; nothing happens where it is over."""
        ...

    def tick(self, now_s: float) -> Outbox:
        """Time has passed."""
        ...

    def progress(self) -> dict[str, object]:
        """What may be shown: phase, round, attempt, who is connected, who survived; no sum, no update."""
        ...
