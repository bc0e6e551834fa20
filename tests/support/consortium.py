"""A consortium with real keys and certificates in a temporary folder, and the real server around a scripted machine."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aggregator.admission import admit
from aggregator.admission import roster as admitted_roster
from aggregator.authority import Authority, create_authority
from aggregator.calls import FederationCalls
from aggregator.driver import Driver
from aggregator.lines import SILENT_S, Lines
from aggregator.patience import Patience
from aggregator.server import FederationServer, ServerTls
from aggregator.sessions import Sessions
from aggregator.uploads import Uploads
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.policy.roster import Roster, format_roster
from fedvlm_secure.rounds.actions import Outbox
from fedvlm_secure.secagg.merkle import chunks_root
from fedvlm_secure.secagg.messages import Hello, NodeMessage, UploadBundle, UploadHeader
from fedvlm_secure.secagg.record import Signer
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.store.spool import FileSpool
from fedvlm_secure.types import Clock, Digest, NodeId, Secret, Signature
from node.channel import NodeTls
from node.keystore import Keystore, create_keystore

CTX = Digest(bytes(range(32)))


class SteadyClock:
    """The monotonic clock: these tests talk over real sockets."""

    def now_s(self) -> float:
        return time.monotonic()


@dataclass
class Consortium:
    """An authority and its admitted nodes."""

    authority: Authority
    keystores: dict[str, Keystore]
    roster: Roster

    def tls(self, node: str) -> NodeTls:
        keystore = self.keystores[node]
        return NodeTls(keystore.tls_key_path, keystore.certificate_path, keystore.ca_path)

    def server_tls(self) -> ServerTls:
        return ServerTls(
            key=Secret(self.authority.server_key_path.read_bytes()),
            certificate=self.authority.server_certificate_path.read_bytes(),
            node_ca=self.authority.ca_path.read_bytes(),
        )

    def hello(self, node: str, *, signer: str | None = None) -> Hello:
        return Signer(self.keystores[signer or node].identity).sign(
            Hello,
            node=NodeId(node),
            version="0",
            policy_hash=Digest(bytes(32)),
            base_fingerprint=Digest(bytes(32)),
            layout_digest=Digest(bytes(32)),
            dimension=1,
            run_hash=b"",
            epoch=-1,
            closed_round=-1,
            approval_used_by=b"",
        )


def make_consortium(folder: Path, *nodes: str) -> Consortium:
    """Keys and certificates for these nodes, all installed."""
    now = datetime.now(UTC)
    authority, _ = create_authority(folder / "home", consortium="test", hosts=(), address="", now=now)
    keystores = {node: create_keystore(folder / node, NodeId(node)) for node in nodes}
    bundles = {node: admit(authority, keystore.join_request(), now).bundle for node, keystore in keystores.items()}
    roster = admitted_roster(authority)
    for node, keystore in keystores.items():
        keystore.install(bundles[node].read_bytes(), format_roster(roster), now)
    return Consortium(authority, keystores, roster)


@dataclass
class ScriptedMachine:
    """A double of AggregatorRun: it notes what reaches it and answers what the test says.

    `answer` gets each message; `expected_bytes` is what every upload is said to need.
    """

    answer: Callable[[NodeId, NodeMessage], Outbox] = lambda node, message: ()
    expected_bytes: int = 0
    spool: FileSpool | None = None
    steps: list[tuple[str, NodeId]] = field(default_factory=list)
    messages: list[tuple[NodeId, NodeMessage]] = field(default_factory=list)
    vectors: dict[NodeId, bytes] = field(default_factory=dict)
    finished: bool = False
    error: FedvlmError | None = None
    check_chunk: Callable[[int, bytes], object] | None = None

    def connected(self, node: NodeId, now_s: float) -> Outbox:
        self.steps.append(("connected", node))
        return ()

    def disconnected(self, node: NodeId, now_s: float) -> Outbox:
        self.steps.append(("disconnected", node))
        return ()

    def heard(self, node: NodeId, now_s: float) -> None:
        self.steps.append(("heard", node))

    def chunk_check(self, bundle: UploadBundle) -> Callable[[int, bytes], object] | None:
        return self.check_chunk

    def check_upload(self, node: NodeId, bundle: UploadBundle) -> int:
        self.steps.append(("check", node))
        return self.expected_bytes

    def receive(self, node: NodeId, message: NodeMessage, now_s: float) -> Outbox:
        if isinstance(message, UploadBundle) and self.spool is not None:
            self.vectors[node] = b"".join(self.spool.chunks(message.header.ctx, node))
        self.messages.append((node, message))
        return self.answer(node, message)

    def tick(self, now_s: float) -> Outbox:
        return ()

    def progress(self) -> dict[str, object]:
        return {}


@dataclass
class RunningServer:
    """A server on loopback, and what it noted."""

    address: str
    machine: ScriptedMachine
    blobs: FileBlobs
    sessions: Sessions
    output: io.StringIO

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [line for line in lines if line["event"] == name]


@contextmanager
def serving(
    consortium: Consortium,
    folder: Path,
    machine: ScriptedMachine,
    *,
    listen: str = "127.0.0.1:0",
    tls: ServerTls | None = None,
    wall_s: Callable[[], float] = time.time,
    clock: Clock | None = None,
    silent_s: float = SILENT_S,
) -> Iterator[RunningServer]:
    """The real server, calls and driver around a scripted machine."""
    output, clock = io.StringIO(), clock or SteadyClock()
    log = EventLog("aggregator", output, clock, json_lines=True)
    sessions = Sessions()
    machine.spool, blobs = FileSpool(folder / "spool"), FileBlobs(folder / "blobs")
    members = len(consortium.roster.members)
    patience = Patience(clock)
    lines = Lines(sessions, log, clock, silent_s=silent_s)

    def observe(seen: object) -> None:
        patience.end_overdue()
        lines.end_silent()

    driver = Driver(machine, sessions, clock, observe, members=members)
    uploads = Uploads(machine.spool)
    calls = FederationCalls(consortium.roster, sessions, driver, uploads, blobs, log, patience, wall_s)
    server = FederationServer(calls, tls or consortium.server_tls(), nodes=members)
    address = server.start(listen)
    stop = threading.Event()
    thread = threading.Thread(target=driver.run, args=(stop.is_set,), daemon=True)
    thread.start()
    try:
        yield RunningServer(address, machine, blobs, sessions, output)
    finally:
        sessions.end_all()
        server.stop()
        stop.set()
        thread.join(5)


def bundle_for(node: str, content: bytes) -> UploadBundle:
    """An upload's bundle with a header that fits `content`; the scripted machine verifies nothing."""
    blank = Digest(bytes(32))
    header = UploadHeader(
        signature=Signature(bytes(64)),
        node=NodeId(node),
        ctx=CTX,
        words=len(content) // 8,
        tree_root=chunks_root([content]),
        self_commitment=blank,
        pair_commitments=(),
        share_root=blank,
        sealed_hashes=(),
    )
    return UploadBundle(header=header, holder_digests=(), sealed=())


def eventually(condition: Callable[[], bool], *, within_s: float = 8.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not within the time.
    """
    end_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end_s:
            raise AssertionError(f"did not happen within {within_s} s")
        time.sleep(0.01)
