"""The connection to the aggregator, kept for ever: dial, session, heartbeat, downloads, and dial again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.errors import FedvlmError, PeerViolation
from fedvlm_secure.rounds.vectors import StoredVector
from fedvlm_secure.secagg.messages import AggregatorMessage, NodeMessage
from fedvlm_secure.store.attachment import FileAttachment
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import Digest
from fedvlm_secure.wire.codec import from_wire, to_wire
from fedvlm_secure.wire.contract import CODE_METADATA, DOWNLOAD, SESSION
from fedvlm_secure.wire.envelopes import (
    AggregatorEnvelope,
    Chunk,
    DownloadRequest,
    Heartbeat,
    NodeEnvelope,
    enclose,
)
from fedvlm_secure.wire.tls13 import grpc
from node.channel import Unreachable
from node.traffic import SentBytes

HEARTBEAT_S = 3.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
_FLUSH_S = 2.0


@dataclass(frozen=True)
class Connected:
    """A session can be opened: the first message of this connection is wanted."""

    connection: int


@dataclass(frozen=True)
class Received:
    """A message, with its attachment if it has one."""

    connection: int
    message: AggregatorMessage
    attachment: StoredVector | None


class Link:
    """One thread that keeps a connection alive and hands over what comes.

    Args:
        dial: opens a channel; see `channel.dial`.
        events: gets Connected and Received.
        folder: where attachments are held while they come.
        max_attachment_bytes: larger ones are refused before they are held.
        sent: counts what leaves.
    """

    def __init__(
        self,
        dial: Callable[[], grpc.Channel],
        events: queue.Queue[object],
        log: EventLog,
        sent: SentBytes,
        *,
        folder: Path,
        max_attachment_bytes: int,
    ) -> None:
        self._dial, self._events, self._log, self._sent = dial, events, log, sent
        self._folder, self._max_attachment_bytes = folder, max_attachment_bytes
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connection = 0
        self._spoke = False  # whether a message came over the last connection
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        self._channel: grpc.Channel | None = None
        self._partial: tuple[Digest, FileAttachment] | None = None
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        """Begin to dial."""
        self._thread.start()

    @property
    def connection(self) -> int:
        """Number of the present connection, counted from 1."""
        return self._connection

    @property
    def channel(self) -> grpc.Channel | None:
        """The present channel, while there is one."""
        return self._channel

    def send(self, connection: int, message: NodeMessage) -> None:
        """Send on that connection. On a later one nothing is sent: the aggregator repeats what it still wants."""
        raw = to_wire(enclose(NodeEnvelope, message))
        with self._lock:
            if connection == self._connection:
                self._outgoing.put(raw)

    def close(self) -> None:
        """Send what is queued, then hang up."""
        self._closing.set()
        with self._lock:
            self._outgoing.put(None)
        self._thread.join(_FLUSH_S)
        channel = self._channel
        if channel is not None:
            channel.close()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closing.is_set():
            try:
                self._session()
                reason = ("DISCONNECTED", "the aggregator ended the session")
            except Unreachable as error:
                reason = ("UNREACHABLE", str(error))
            except grpc.RpcError as error:
                reason = refusal(error)
            except FedvlmError as error:
                reason = (error.code, error.cause)
            if self._closing.is_set():
                return
            wait_s = FIRST_WAIT_S if self._spoke else wait_s
            self._log.event("waiting", code=reason[0], cause=reason[1], wait_s=wait_s)
            self._closing.wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _session(self) -> None:
        """One connection, from dialling to its end."""
        self._spoke = False
        channel = self._dial()
        with self._lock:
            self._connection += 1
            connection, outgoing = self._connection, queue.Queue[bytes | None]()
            self._outgoing, self._channel = outgoing, channel
        try:
            if self._closing.is_set():  # hung up while dialling
                return
            self._events.put(Connected(connection))
            for raw in channel.stream_stream(SESSION, None, None)(self._requests(outgoing)):
                self._take(connection, channel, raw)
                self._spoke = True
        finally:
            outgoing.put(None)
            self._channel = None
            channel.close()

    def _requests(self, outgoing: queue.Queue[bytes | None]) -> Iterator[bytes]:
        """What is sent: Hello whenever it comes, then messages, and a heartbeat after each silence."""
        beat = to_wire(enclose(NodeEnvelope, Heartbeat()))
        raw = outgoing.get()
        while raw is not None:
            yield self._sent.control(raw)
            try:
                raw = outgoing.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                raw = beat

    def _take(self, connection: int, channel: grpc.Channel, raw: bytes) -> None:
        envelope = from_wire(AggregatorEnvelope, raw)
        attachment = self._download(channel, Digest(envelope.attachment)) if envelope.attachment else None
        message: AggregatorMessage = envelope.body  # type: ignore[assignment]  # the envelope's bodies are these
        self._events.put(Received(connection, message, attachment))

    def _download(self, channel: grpc.Channel, root: Digest) -> StoredVector:
        """Fetch an attachment chunk by chunk onto the disk; one that was cut goes on where it stood.

        Raises:
            PeerViolation: ATTACHMENT_TOO_LARGE, CHUNK_ORDER, ATTACHMENT_WRONG, or MALFORMED_MESSAGE.
            StorageError: it cannot be held.
        """
        if self._partial is None or self._partial[0] != root:
            self._partial = None  # the older one's disk space goes before the next one needs some
            self._partial = (root, FileAttachment(self._folder))
        held = self._partial[1]
        if held.is_open:
            request = DownloadRequest(root=root, first_chunk=held.chunks)
            for raw in channel.unary_stream(DOWNLOAD, None, None)(self._sent.control(to_wire(request))):
                self._append(held, from_wire(Chunk, raw))
        self._partial = None
        if held.root != root:
            raise PeerViolation("ATTACHMENT_WRONG", "an attachment is not what its root says", "connect again")
        return held

    def _append(self, held: FileAttachment, chunk: Chunk) -> None:
        if chunk.index != held.chunks or not held.is_open or not chunk.content:  # empty ones could go on for ever
            self._partial = None
            raise PeerViolation("CHUNK_ORDER", "an attachment's chunks came out of order", "connect again")
        if held.size_bytes + len(chunk.content) > self._max_attachment_bytes:
            self._partial = None
            raise PeerViolation(
                "ATTACHMENT_TOO_LARGE",
                f"an attachment is larger than the {self._max_attachment_bytes} bytes it can need",
                "the aggregator offers another model than this node's",
            )
        held.append(chunk.content)


def refusal(error: grpc.RpcError) -> tuple[str, str]:
    """Stable code and cause of a call that failed: the aggregator's own where it gave them."""
    if not isinstance(error, grpc.Call):
        return "DISCONNECTED", "the connection broke"
    metadata = dict(error.trailing_metadata() or ())
    code = metadata.get(CODE_METADATA, error.code().name)
    details = error.details() or ""
    return str(code), details.removeprefix(f"{code}: ")
