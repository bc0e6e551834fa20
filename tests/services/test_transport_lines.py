"""The line between a hospital and the aggregator: half open, trickling, cut anywhere, and certificates that end."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from aggregator.lines import Lines, endpoint_of
from aggregator.sessions import Session, Sessions
from fedvlm_secure.rounds.vectors import cut
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import NodeId
from fedvlm_secure.wire.codec import to_wire
from fedvlm_secure.wire.contract import DOWNLOAD, SESSION, UPLOAD
from fedvlm_secure.wire.envelopes import Chunk, DownloadRequest, Heartbeat, NodeEnvelope, UploadPart, enclose
from fedvlm_secure.wire.tls13 import grpc
from node.channel import dial
from node.client import refusal
from tests.support.consortium import (
    CTX,
    Consortium,
    ScriptedMachine,
    bundle_for,
    eventually,
    make_consortium,
    serving,
)
from tests.support.stalling_proxy import StallingProxy

NODE = NodeId("hospital-a")
CONTENT = bytes(2 * CHUNK_BYTES)
BEAT = to_wire(enclose(NodeEnvelope, Heartbeat()))


class SetClock:
    """Stands where the test puts it."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now_s(self) -> float:
        return self.s


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"), NODE)


@pytest.fixture
def leave() -> Iterator[threading.Event]:
    """Set at the end, so that no request stream outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def _hello(consortium: Consortium) -> bytes:
    return to_wire(enclose(NodeEnvelope, consortium.hello(NODE)))


def _then_silence(*messages: bytes, leave: threading.Event) -> Iterator[bytes]:
    yield from messages
    leave.wait(30)


def _beating(first: bytes, leave: threading.Event) -> Iterator[bytes]:
    yield first
    while not leave.wait(0.05):
        yield BEAT


def _code(call: Iterable[bytes]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    return caught.value.code(), refusal(caught.value)[0]


def test_a_link_that_is_open_at_one_end_only_is_given_up(
    consortium: Consortium, tmp_path: Path, leave: threading.Event
) -> None:
    """The proxy goes on acknowledging and answers nothing: what a firewall does that forgot a connection."""
    with serving(consortium, tmp_path, ScriptedMachine(), silent_s=1.0) as server:
        proxy = StallingProxy(server.address, 1 << 20)
        channel = dial(proxy.address, consortium.tls(NODE), consortium.roster)
        call = channel.stream_stream(SESSION, None, None)(_beating(_hello(consortium), leave))
        eventually(lambda: server.sessions.nodes() == [NODE])
        time.sleep(2.5)
        assert server.sessions.nodes() == [NODE], "a link that lives is kept however long"
        proxy._left = 0  # from now on nothing passes upstream
        stalled_s = time.monotonic()
        eventually(lambda: ("disconnected", NODE) in server.machine.steps, within_s=5)
        assert time.monotonic() - stalled_s < 4
        assert server.sessions.nodes() == []
        (event,) = server.events("silent")
        assert event["node"] == NODE and 1 <= float(str(event["seconds"])) < 4
        call.cancel()  # type: ignore[no-untyped-call]
        channel.close()
        proxy.close()


def test_lines_are_judged_by_the_clock_and_the_bytes_and_by_nothing_else() -> None:
    clock, sessions = SetClock(), Sessions()
    cut: list[str] = []
    for name, peer in (("a", "ipv4:10.0.0.1:5"), ("b", "ipv6:%5B2001:db8::1%5D:6"), ("c", "unix:nothing")):
        sessions.open(Session(NodeId(name), peer, clock.s, lambda name=name: cut.append(name)))  # type: ignore[misc]
    silence = {("10.0.0.1", 5): 9.9, ("2001:db8::1", 6): 10.0, ("10.0.0.9", 5): 1e6}
    lines = Lines(sessions, EventLog("x", io.StringIO(), clock, json_lines=True), clock, silence=lambda: silence)
    lines.end_silent()
    assert cut == [], "it looks once a second"
    clock.s += 1
    lines.end_silent()
    assert cut == ["b"]


@pytest.mark.parametrize(
    ("peer", "endpoint"),
    [
        ("ipv4:127.0.0.1:50", ("127.0.0.1", 50)),
        ("ipv6:%5B::1%5D:50", ("::1", 50)),
        ("ipv6:[::ffff:10.0.0.1]:50", ("10.0.0.1", 50)),
        ("unix:/tmp/x", None),
        ("", None),
        ("ipv4:1.2.3.4:http", None),
    ],
)
def test_a_peers_name_is_read_as_the_kernel_writes_it(peer: str, endpoint: tuple[str, int] | None) -> None:
    assert endpoint_of(peer) == endpoint


@pytest.mark.parametrize("method", [SESSION, UPLOAD])
def test_a_call_that_says_nothing_is_ended(
    consortium: Consortium, tmp_path: Path, leave: threading.Event, method: str
) -> None:
    clock = SetClock()
    with serving(consortium, tmp_path, ScriptedMachine(), clock=clock) as server:
        channel = dial(server.address, consortium.tls(NODE), consortium.roster)
        call = channel.stream_stream(method, None, None)(_then_silence(leave=leave))
        eventually(lambda: server.sessions._calls.get(NODE) == 1)
        clock.s += 29
        time.sleep(0.5)
        assert server.sessions._calls[NODE] == 1, "it still has a second"
        clock.s += 2
        with pytest.raises(grpc.RpcError):
            list(call)
        eventually(lambda: server.sessions._calls[NODE] == 0)
        eventually(lambda: [event["code"] for event in server.events("refused")] == ["TOO_SLOW"])
        channel.close()


def test_an_upload_that_trickles_is_ended_and_resumes_where_it_stood(
    consortium: Consortium, tmp_path: Path, leave: threading.Event
) -> None:
    clock = SetClock()
    machine = ScriptedMachine(expected_bytes=len(CONTENT))
    with serving(consortium, tmp_path, machine, clock=clock) as server:
        channel = dial(server.address, consortium.tls(NODE), consortium.roster)
        bundle = to_wire(UploadPart(bundle=bundle_for(NODE, CONTENT)))
        first, second = (to_wire(UploadPart(chunk=Chunk(index=at, content=bytes(CHUNK_BYTES)))) for at in (0, 1))
        call = channel.stream_stream(UPLOAD, None, None)(_then_silence(bundle, first, leave=leave))
        next(call)  # type: ignore[call-overload]
        eventually(lambda: ("heard", NODE) in machine.steps)
        time.sleep(0.5)
        clock.s += 61
        with pytest.raises(grpc.RpcError):
            list(call)
        eventually(lambda: [event["code"] for event in server.events("refused")] == ["TOO_SLOW"])
        assert machine.spool is not None and machine.spool.held_chunks(CTX, NODE) == 1
        replies = list(channel.stream_stream(UPLOAD, None, None)(iter([bundle, second]), timeout=10))
        assert len(replies) == 2 and machine.vectors == {NODE: CONTENT}
        channel.close()


def test_a_download_that_nobody_reads_is_ended(consortium: Consortium, tmp_path: Path) -> None:
    clock = SetClock()
    with serving(consortium, tmp_path, ScriptedMachine(), clock=clock) as server:
        content = bytes(24 * CHUNK_BYTES)  # more than any window takes in
        root = server.blobs.put(cut(content))
        channel = dial(server.address, consortium.tls(NODE), consortium.roster)
        call = channel.unary_stream(DOWNLOAD, None, None)(to_wire(DownloadRequest(root=root, first_chunk=0)))
        next(call)  # type: ignore[call-overload]
        eventually(lambda: server.sessions._calls.get(NODE) == 1)
        time.sleep(0.5)
        clock.s += 61
        eventually(lambda: server.sessions._calls[NODE] == 0)
        call.cancel()  # type: ignore[no-untyped-call]
        channel.close()


def _ends_s(consortium: Consortium) -> float:
    from cryptography import x509

    raw = consortium.keystores[NODE].certificate_path.read_bytes()
    return x509.load_pem_x509_certificate(raw).not_valid_after_utc.timestamp()


def test_a_certificate_that_ended_since_the_handshake_opens_no_call(consortium: Consortium, tmp_path: Path) -> None:
    wall = SetClock()
    wall.s = _ends_s(consortium) - 1
    with serving(consortium, tmp_path, ScriptedMachine(), wall_s=wall.now_s) as server:
        channel = dial(server.address, consortium.tls(NODE), consortium.roster)
        list(channel.stream_stream(SESSION, None, None)(iter([_hello(consortium)]), timeout=10))
        wall.s += 2
        for method in (SESSION, UPLOAD):
            call = channel.stream_stream(method, None, None)(iter([_hello(consortium)]), timeout=10)
            assert _code(call) == (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_EXPIRED")
        request = to_wire(DownloadRequest(root=CTX, first_chunk=0))
        assert _code(channel.unary_stream(DOWNLOAD, None, None)(request))[1] == "CERTIFICATE_EXPIRED"
        assert [event["code"] for event in server.events("refused")] == ["CERTIFICATE_EXPIRED"] * 3
        channel.close()


def test_a_certificate_that_ends_in_mid_session_ends_the_session(
    consortium: Consortium, tmp_path: Path, leave: threading.Event
) -> None:
    wall = SetClock()
    wall.s = _ends_s(consortium) - 1
    with serving(consortium, tmp_path, ScriptedMachine(), wall_s=wall.now_s) as server:
        channel = dial(server.address, consortium.tls(NODE), consortium.roster)
        call = channel.stream_stream(SESSION, None, None)(_beating(_hello(consortium), leave))
        eventually(lambda: server.machine.steps.count(("heard", NODE)) >= 2)
        wall.s += 2
        assert list(call) == []
        eventually(lambda: ("disconnected", NODE) in server.machine.steps)
        assert [event["code"] for event in server.events("refused")] == ["CERTIFICATE_EXPIRED"]
        channel.close()
