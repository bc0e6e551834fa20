"""The gRPC methods of the aggregator, and what a node does with its answers, as fuzz targets without a socket."""

from __future__ import annotations

import io
import tempfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

from cryptography.hazmat.primitives.serialization import Encoding

from aggregator.calls import FederationCalls
from aggregator.driver import Driver
from aggregator.patience import Patience
from aggregator.sessions import Sessions
from aggregator.uploads import Uploads
from fedvlm_secure.errors import FedvlmError
from fedvlm_secure.rounds.vectors import chunks_of
from fedvlm_secure.secagg.merkle import chunk_root
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.store.spool import FileSpool
from fedvlm_secure.types import Digest
from fedvlm_secure.wire.codec import to_wire
from fedvlm_secure.wire.envelopes import Chunk, DownloadRequest, Heartbeat, NodeEnvelope, UploadPart, enclose
from fedvlm_secure.wire.tls13 import grpc
from node.client import Link
from node.traffic import SentBytes
from tests.fuzz.choices import Choices
from tests.fuzz.decoders import Target, well_coded
from tests.fuzz.mutations import mutated
from tests.fuzz.scratch import scratch_folder
from tests.support.consortium import CTX, Consortium, ScriptedMachine, SteadyClock, bundle_for, make_consortium

_NODE = "hospital-a"
_CONTENT = bytes(range(200))
_BLOB = b"an attachment"
_PARTS = 6


class Aborted(Exception):
    """What gRPC raises in a handler that aborts."""


class Context:
    """A call from a member of the roster, as far as a handler looks at it."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self.code: str | None = None

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._certificate], "ssl_tls_version": [b"TLSv1.3"]}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def cancel(self) -> None:
        return None

    def add_callback(self, callback: Any) -> bool:
        return True

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.code = dict(metadata)["fedvlm-code"]

    def abort(self, status: grpc.StatusCode, details: str) -> NoReturn:
        if self.code is None or status is grpc.StatusCode.UNKNOWN or len(details) > 4096:
            raise AssertionError(f"aborted with {status} and {details[:100]!r}")
        raise Aborted(self.code)


class Service:
    """The calls of the aggregator around a scripted machine, in this process."""

    def __init__(self, folder: Path) -> None:
        self.consortium: Consortium = make_consortium(folder / "consortium", _NODE)
        clock = SteadyClock()
        log = EventLog("aggregator", io.StringIO(), clock, json_lines=True)
        sessions = Sessions()
        self.spool, self.blobs = FileSpool(folder / "spool"), FileBlobs(folder / "blobs")
        self.machine = ScriptedMachine(expected_bytes=len(_CONTENT), spool=self.spool)
        self.root = chunk_root(_BLOB)
        self.blobs.put([_BLOB])
        driver = Driver(cast(Any, self.machine), sessions, clock, lambda seen: None, members=1)
        self.calls = FederationCalls(
            self.consortium.roster,
            sessions,
            driver,
            Uploads(self.spool),
            self.blobs,
            log,
            Patience(clock),
            lambda: 1_800_000_000.0,
        )
        self._sessions = sessions
        self.certificate = self._pem()
        threading.Thread(target=driver.run, args=(lambda: False,), daemon=True).start()

    def _pem(self) -> bytes:
        raw = self.consortium.keystores[_NODE].certificate_path.read_bytes()
        from cryptography import x509

        return x509.load_pem_x509_certificate(raw).public_bytes(Encoding.PEM)

    def context(self) -> Any:
        return Context(self.certificate)

    def reset(self) -> None:
        """Forget what the last case did."""
        self.machine.messages.clear()
        self.machine.steps.clear()
        self.spool.discard(CTX)


@cache
def service() -> Service:
    """One per process; its folder lives as long."""
    return Service(scratch_folder())


def _run(handler: Iterator[bytes]) -> str | None:
    """The code that the handler aborted with, None where it came to its end."""
    try:
        for _ in handler:
            continue
    except Aborted as error:
        return str(error)
    return None


def _damaged(raw: bytes, choices: Choices) -> bytes:
    match choices.below(5):
        case 0:
            return raw
        case 1:
            return choices.take(choices.below(64))
        case 2:
            at = choices.below(256) % (len(raw) + 1)
            return raw[:at] + choices.take(1 + choices.below(8)) + raw[at + 1 :]
        case 3:
            return raw[: choices.below(256)]
        case _:
            return raw + choices.take(4)


def session_call(raw: bytes) -> None:
    """Session: any first message, then any others."""
    choices, running = Choices(raw), service()
    running.reset()
    hello = running.consortium.hello(_NODE)
    sound = [enclose(NodeEnvelope, hello), enclose(NodeEnvelope, mutated(hello, choices))]
    sound.append(enclose(NodeEnvelope, Heartbeat()))
    messages = [_damaged(to_wire(choices.pick(sound)), choices) for _ in range(1 + choices.below(_PARTS))]
    _run(running.calls.session(iter(messages), cast(grpc.ServicerContext, running.context())))


def upload_call(raw: bytes) -> None:
    """Upload: chunks in any order, of any size, under any index, after any bundle."""
    choices, running = Choices(raw), service()
    running.reset()
    bundle = bundle_for(_NODE, _CONTENT)
    parts = [_damaged(to_wire(UploadPart(bundle=bundle)), choices)]
    for _ in range(choices.below(_PARTS)):
        index = choices.pick((0, 0, 0, 1, 2, (1 << 63) - 1))
        content = choices.pick((_CONTENT, _CONTENT, _CONTENT[:-1], b"", _CONTENT + b"x", bytes(1 << 20)))
        parts.append(_damaged(to_wire(UploadPart(chunk=Chunk(index=index, content=content))), choices))
    code = _run(running.calls.upload(iter(parts), cast(grpc.ServicerContext, running.context())))
    held = b"".join(running.spool.chunks(CTX, bundle.header.node))
    if held not in (b"", _CONTENT) and len(held) != len(_CONTENT):
        raise AssertionError(f"{len(held)} bytes are held of {len(_CONTENT)}")
    if code is None and not running.machine.messages:
        raise AssertionError("an upload came to its end and nobody heard of it")


def download_call(raw: bytes) -> None:
    """Download: any request."""
    choices, running = Choices(raw), service()
    first = choices.pick((0, 1, 255, 1 << 40, (1 << 63) - 1))
    root = running.root if choices.below(2) else Digest(bytes(32))
    request = _damaged(to_wire(DownloadRequest(root=root, first_chunk=first)), choices)
    _run(running.calls.download(request, cast(grpc.ServicerContext, running.context())))


class _Channel:
    """An aggregator that answers a download with these chunks."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers

    def unary_stream(self, method: str, serializer: None, deserializer: None) -> Any:
        return lambda request: iter(self._answers)


def attachment_at_node(raw: bytes) -> None:
    """A node that downloads an attachment: any chunks."""
    choices = Choices(raw)
    answers = []
    for _ in range(choices.below(8)):
        content = choices.pick((_BLOB, b"", bytes(1 << 20), _BLOB[:5]))
        chunk = Chunk(index=choices.pick((0, 0, 1, 2, (1 << 63) - 1)), content=content)
        answers.append(_damaged(to_wire(chunk), choices))
    log = EventLog("node", io.StringIO(), SteadyClock(), json_lines=True)
    folder = Path(tempfile.gettempdir()) / "fedvlm-fuzz-attachments"
    link = Link(
        lambda: cast(grpc.Channel, None), cast(Any, None), log, SentBytes(), folder=folder, max_attachment_bytes=1 << 21
    )
    root = chunk_root(_BLOB)
    try:
        attachment = link._download(cast(grpc.Channel, _Channel(answers)), root)
    except FedvlmError as error:
        return well_coded(error)
    if b"".join(chunks_of(attachment)) != _BLOB:
        raise AssertionError("an attachment that is not what its root says")
    return None


CALLS: dict[str, Target] = {
    "session-call": session_call,
    "upload-call": upload_call,
    "download-call": download_call,
    "attachment-at-node": attachment_at_node,
}
