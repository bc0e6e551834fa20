"""Vectors arrive whole, in order, within their size, and resume where they were cut."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.rounds.actions import Upload
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import UploadBundle
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire.codec import from_wire, to_wire
from fedvlm_secure.wire.contract import UPLOAD
from fedvlm_secure.wire.envelopes import Chunk, UploadPart, UploadReply
from fedvlm_secure.wire.fields import MAX_ENVELOPE_BYTES
from fedvlm_secure.wire.generated import fedvlm_pb2
from fedvlm_secure.wire.tls13 import grpc
from node.channel import dial
from node.client import Link, refusal
from node.traffic import SentBytes
from node.uploader import Uploader
from tests.support.consortium import (
    CTX,
    Consortium,
    RunningServer,
    ScriptedMachine,
    SteadyClock,
    bundle_for,
    eventually,
    make_consortium,
    serving,
)
from tests.support.cutting_proxy import cutting

NODE = NodeId("hospital-a")
CONTENT = b"".join(bytes([k]) * CHUNK_BYTES for k in range(3)) + b"the tail"


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"), NODE)


@pytest.fixture
def server(consortium: Consortium, tmp_path: Path) -> Iterator[RunningServer]:
    with serving(consortium, tmp_path, ScriptedMachine(expected_bytes=len(CONTENT))) as running:
        yield running


@pytest.fixture
def channel(consortium: Consortium, server: RunningServer) -> Iterator[grpc.Channel]:
    with dial(server.address, consortium.tls(NODE), consortium.roster) as channel:
        yield channel


def _chunk(index: int, content: bytes | None = None) -> bytes:
    piece = CONTENT[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES] if content is None else content
    return to_wire(UploadPart(chunk=Chunk(index=index, content=piece)))


def _bundle() -> bytes:
    return to_wire(UploadPart(bundle=bundle_for(NODE, CONTENT)))


def _replies(channel: grpc.Channel, *parts: bytes) -> list[UploadReply]:
    call = channel.stream_stream(UPLOAD, None, None)(iter(parts), timeout=20)
    return [from_wire(UploadReply, raw) for raw in call]


def test_a_whole_vector_reaches_the_machine_after_it_is_held(channel: grpc.Channel, server: RunningServer) -> None:
    replies = _replies(channel, _bundle(), *(_chunk(index) for index in range(4)))
    assert [(reply.chunks_held, reply.complete) for reply in replies] == [(0, False), (4, True)]
    assert server.machine.vectors == {NODE: CONTENT}
    names = [name for name, _ in server.machine.steps]
    assert names == ["check", *["heard"] * 4]
    assert _replies(channel, _bundle())[-1] == UploadReply(chunks_held=4, complete=True), "a repeat sends nothing twice"


def test_an_upload_that_was_cut_resumes_at_the_chunk_border(channel: grpc.Channel, server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _replies(channel, _bundle(), _chunk(0), _chunk(1))
    assert refusal(caught.value)[0] == "UPLOAD_CUT"
    assert server.machine.messages == []
    replies = _replies(channel, _bundle(), _chunk(2), _chunk(3))
    assert [reply.chunks_held for reply in replies] == [2, 4]
    assert server.machine.vectors == {NODE: CONTENT}


BAD = {
    "chunk of more than 1 MiB": (
        fedvlm_pb2.UploadPart(chunk=fedvlm_pb2.Chunk(index=0, content=bytes(CHUNK_BYTES + 1))).SerializeToString(),
        "MALFORMED_MESSAGE",
    ),
    "short chunk in the middle": (_chunk(0, b"12345678"), "CHUNK_SIZE"),
    "chunk out of order": (_chunk(1), "CHUNK_ORDER"),
    "a second bundle": (_bundle(), "CHUNK_ORDER"),
    "noise": (b"\xff" * 64, "MALFORMED_MESSAGE"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_part_ends_the_upload_and_stores_nothing(
    fault: str, channel: grpc.Channel, server: RunningServer
) -> None:
    raw, code = BAD[fault]
    with pytest.raises(grpc.RpcError) as caught:
        _replies(channel, _bundle(), raw)
    assert (refusal(caught.value)[0], caught.value.code()) == (code, grpc.StatusCode.INVALID_ARGUMENT)
    assert server.machine.spool is not None and server.machine.spool.held_chunks(CTX, NODE) == 0
    assert [event["code"] for event in server.events("refused")] == [code]
    assert server.machine.messages == []


def test_a_chunk_that_the_machine_refuses_is_not_kept_and_ends_the_upload(
    channel: grpc.Channel, server: RunningServer
) -> None:
    """In homomorphic mode: no ciphertext of the run's parameters."""
    looked: list[int] = []

    def check(index: int, content: bytes) -> None:
        looked.append(index)
        if index == 1:
            raise PeerViolation("BAD_CIPHERTEXT", "chunk 1 holds a word that is no residue", "")

    server.machine.check_chunk = check
    with pytest.raises(grpc.RpcError) as caught:
        _replies(channel, _bundle(), *(_chunk(index) for index in range(4)))
    assert (refusal(caught.value)[0], caught.value.code()) == ("BAD_CIPHERTEXT", grpc.StatusCode.INVALID_ARGUMENT)
    assert looked == [0, 1] and server.machine.messages == []
    assert server.machine.spool is not None and server.machine.spool.held_chunks(CTX, NODE) == 1


def test_a_message_beyond_the_cap_never_reaches_the_service(consortium: Consortium, server: RunningServer) -> None:
    tls = consortium.tls(NODE)
    credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes(), tls.key.read_bytes(), tls.certificate.read_bytes())
    with grpc.secure_channel(server.address, credentials) as careless, pytest.raises(grpc.RpcError) as caught:
        _replies(careless, bytes(MAX_ENVELOPE_BYTES + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (server.machine.steps, server.machine.messages) == ([], [])


def test_a_node_cannot_hold_more_than_its_share_of_calls(channel: grpc.Channel, server: RunningServer) -> None:
    over = threading.Event()
    started = [channel.stream_stream(UPLOAD, None, None)(_bundle_then_nothing(over)) for _ in range(6)]
    for call in started:
        next(call)
    with pytest.raises(grpc.RpcError) as caught:
        _replies(channel, _bundle())
    assert refusal(caught.value)[0] == "TOO_MANY_CALLS"
    for call in started:
        call.cancel()
    over.set()


def _bundle_then_nothing(over: threading.Event) -> Iterator[bytes]:
    yield _bundle()
    over.wait(20)


def test_the_newer_of_two_uploads_goes_on_and_the_older_writes_no_more(
    channel: grpc.Channel, server: RunningServer
) -> None:
    parts: queue.Queue[bytes] = queue.Queue()
    older = channel.stream_stream(UPLOAD, None, None)(iter(parts.get, b""), timeout=20)
    parts.put(_bundle())
    parts.put(_chunk(0))
    next(older)
    eventually(lambda: ("heard", NODE) in server.machine.steps)
    newer = _replies(channel, _bundle(), *(_chunk(index) for index in range(1, 4)))
    assert newer[0].chunks_held == 1 and newer[-1].complete
    parts.put(_chunk(1))
    with pytest.raises(grpc.RpcError) as caught:
        next(older)
    assert refusal(caught.value)[0] == "UPLOAD_SUPERSEDED"
    assert server.machine.vectors == {NODE: CONTENT}


@pytest.mark.parametrize(
    ("budgets", "cuts"),
    [([0, 0, 500], 3), ([40_000, 1_500_000, 40_000, 1_300_000, 40_000, 700_000], 3)],
    ids=["while dialling", "while uploading"],
)
def test_a_node_on_a_bad_line_uploads_in_pieces(
    budgets: list[int],
    cuts: int,
    consortium: Consortium,
    server: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each dial makes two connections: one to look at the certificate, one that carries everything."""
    monkeypatch.setattr("node.client.FIRST_WAIT_S", 0.05)
    monkeypatch.setattr("node.uploader._WAIT_S", 0.05)
    sent, events = SentBytes(), queue.Queue[object]()
    log = EventLog(NODE, io.StringIO(), SteadyClock(), json_lines=True)
    with cutting(server.address, budgets) as proxy:
        link = Link(
            lambda: dial(proxy.address, consortium.tls(NODE), consortium.roster),
            events,
            log,
            sent,
            folder=tmp_path / "attachments",
            max_attachment_bytes=0,
        )
        uploader = Uploader(lambda: link.channel, log, sent)
        link.start()
        uploader.start()
        uploader.offer(Upload(bundle_for(NODE, CONTENT), HeldVector(CONTENT)))
        eventually(
            lambda: any(isinstance(message, UploadBundle) for _, message in server.machine.messages), within_s=20
        )
        assert server.machine.vectors == {NODE: CONTENT}
        assert proxy.cuts == cuts
        uploader.close()
        link.close()
    assert server.machine.steps.count(("heard", NODE)) == 4, "no chunk that was held was taken twice"
    assert sent.take()[1] >= len(CONTENT)
