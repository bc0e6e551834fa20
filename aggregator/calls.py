"""The three calls of the service. Raw bytes in, raw bytes out; wire/ looks at them, the driver carries them on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from aggregator.callers import Caller, admitted
from aggregator.driver import Driver
from aggregator.patience import CHUNK_S, FIRST_S, Patience
from aggregator.sessions import Session, Sessions
from aggregator.uploads import Uploads
from fedvlm_secure.errors import FedvlmError, IdentityError, PeerViolation
from fedvlm_secure.policy.roster import Roster
from fedvlm_secure.secagg.messages import Hello, NodeMessage, UploadBundle
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire.admission import malformed
from fedvlm_secure.wire.codec import from_wire, to_wire
from fedvlm_secure.wire.envelopes import Chunk, DownloadRequest, Heartbeat, NodeEnvelope, UploadPart, UploadReply
from fedvlm_secure.wire.tls13 import grpc


@dataclass(frozen=True)
class FederationCalls:
    """Session, Upload and Download for the members of one roster.

    Args:
        wall_s: seconds since 1970; a certificate that ends in mid-run ends its calls.
    """

    roster: Roster
    sessions: Sessions
    driver: Driver
    uploads: Uploads
    blobs: FileBlobs
    log: EventLog
    patience: Patience
    wall_s: Callable[[], float]

    def session(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Control messages both ways. The first is the node's Hello."""
        with self._admitted(context) as caller:
            node = caller.node
            with self.patience.at_most(FIRST_S, "a Hello", context.cancel):
                hello = self._hello(node, requests)
            session = Session(node, context.peer(), self.driver.now_s(), context.cancel)
            replaced = self.sessions.open(session)
            if replaced is not None:
                replaced.end()
            context.add_callback(session.end)
            self.log.event("connected", node=node, peer=session.peer, connected=self.sessions.nodes())
            try:
                self.driver.connected(node)
                self._receive(node, hello, session)
                threading.Thread(target=self._listen, args=(session, caller, requests), daemon=True).start()
                yield from session.messages()
            finally:
                if self.sessions.close(session):
                    self.driver.disconnected(node)
                self.log.event("disconnected", node=node, peer=session.peer, connected=self.sessions.nodes())

    def _admitted(self, context: grpc.ServicerContext) -> AbstractContextManager[Caller]:
        return admitted(context, self.roster, self.sessions, self.log, self.wall_s)

    def _hello(self, node: NodeId, requests: Iterator[bytes]) -> Hello:
        raw = next(requests, None)
        body = None if raw is None else from_wire(NodeEnvelope, raw).body
        if not isinstance(body, Hello):
            raise malformed("the first message of a session is Hello")
        if body.node != node:
            raise IdentityError(
                "OTHER_NODE", f"{node}'s certificate came with a Hello of {body.node}", "one certificate, one node"
            )
        return body

    def _listen(self, session: Session, caller: Caller, requests: Iterator[bytes]) -> None:
        """Read a session until it ends or breaks the wire contract."""
        try:
            for raw in requests:
                caller.check_current(self.wall_s())
                body = from_wire(NodeEnvelope, raw).body
                session.heard_s = self.driver.now_s()
                self.driver.heard(session.node)
                if not isinstance(body, Heartbeat):
                    self._receive(session.node, body, session)  # type: ignore[arg-type]  # the envelope's other bodies
        except grpc.RpcError:
            self.log.event("cut", node=session.node, peer=session.peer)
        except FedvlmError as error:
            self.log.event("refused", node=session.node, peer=session.peer, code=error.code, cause=error.cause)
        finally:
            session.end()

    def _receive(self, node: NodeId, message: NodeMessage, session: Session) -> None:
        """A message that breaks the protocol is logged and dropped; the session goes on, as the machine does."""
        try:
            self.driver.receive(node, message)
        except PeerViolation as error:
            kind = type(message).__name__
            self.log.event("refused", node=node, peer=session.peer, kind=kind, code=error.code, cause=error.cause)

    def upload(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """R1: bundle, resume point, chunks, done."""
        with self._admitted(context) as caller:
            node = caller.node
            with self.patience.at_most(FIRST_S, "an upload's bundle", context.cancel):
                bundle = self._bundle(node, requests)
            expected_bytes = self.driver.check_upload(node, bundle)
            turn = self.uploads.begin(bundle.header, expected_bytes, self.driver.chunk_check(bundle))
            try:
                resumed = turn.held
                yield to_wire(UploadReply(chunks_held=turn.held, complete=False))
                for _ in turn.missing(self._chunks(requests, context)):
                    self.driver.heard(node)
                turn.finish()
                self.log.event("uploaded", node=node, chunks=turn.total_chunks, size_bytes=8 * bundle.header.words)
                self.driver.receive(node, bundle)
                yield to_wire(UploadReply(chunks_held=turn.total_chunks, complete=True))
            finally:
                if turn.held < turn.total_chunks:
                    self.log.event("upload_cut", node=node, chunks=turn.held - resumed)
                self.uploads.end(turn)

    def _chunks(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """The parts of an upload, each within its time."""
        while True:
            with self.patience.at_most(CHUNK_S, "a chunk", context.cancel):
                raw = next(requests, None)
            if raw is None:
                return
            yield raw

    def _bundle(self, node: NodeId, requests: Iterator[bytes]) -> UploadBundle:
        raw = next(requests, None)
        bundle = None if raw is None else from_wire(UploadPart, raw).bundle
        if bundle is None:
            raise malformed("the first part of an upload is its bundle")
        if bundle.header.node != node:
            raise IdentityError(
                "OTHER_NODE", f"{node} uploads under the name {bundle.header.node}", "one certificate, one node"
            )
        return bundle

    def download(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """An attachment's chunks. Sums and states are for every member of the roster."""
        with self._admitted(context) as caller:
            node = caller.node
            asked = from_wire(DownloadRequest, request)
            index = asked.first_chunk
            content = self.blobs.chunk(asked.root, index)
            if content is None and index == 0:
                raise PeerViolation("NO_ATTACHMENT", f"{node} asks for what is not offered", "wait for a newer message")
            while content is not None:
                with self.patience.at_most(CHUNK_S, "the reading of a chunk", context.cancel):
                    yield to_wire(Chunk(index=index, content=content))
                index += 1
                content = self.blobs.chunk(asked.root, index)
