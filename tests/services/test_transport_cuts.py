"""What a bad line does to an upload, wherever it cuts; and a message that claims to be larger than memory."""

from __future__ import annotations

import dataclasses
import io
import os
import queue
import random
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedvlm_secure.rounds.actions import Upload
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.messages import UploadBundle
from fedvlm_secure.store.event_log import EventLog
from fedvlm_secure.types import Digest, NodeId
from fedvlm_secure.wire.codec import from_wire, to_wire
from fedvlm_secure.wire.contract import SESSION, UPLOAD
from fedvlm_secure.wire.envelopes import Chunk, NodeEnvelope, UploadPart, UploadReply, enclose
from fedvlm_secure.wire.tls13 import grpc
from node.channel import dial
from node.client import Link
from node.traffic import SentBytes
from node.uploader import Uploader
from tests.support.consortium import (
    Consortium,
    ScriptedMachine,
    SteadyClock,
    bundle_for,
    eventually,
    make_consortium,
    serving,
)
from tests.support.cutting_proxy import cutting

NODE = NodeId("hospital-a")
CUTS = 200
SMALL_CHUNK = 4096
VECTOR_BYTES = 9 * SMALL_CHUNK + 8
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"), NODE)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks, and no waiting between two attempts."""
    for module in ("aggregator.uploads", "fedvlm_secure.store.spool", "fedvlm_secure.rounds.vectors"):
        monkeypatch.setattr(f"{module}.CHUNK_BYTES", SMALL_CHUNK)
    for name in ("node.client.FIRST_WAIT_S", "node.client.LONGEST_WAIT_S", "node.uploader._WAIT_S"):
        monkeypatch.setattr(name, 0.005)


def _upload(number: int, rng: random.Random) -> tuple[Upload, bytes]:
    content = rng.randbytes(VECTOR_BYTES)
    bundle = bundle_for(NODE, content)
    header = dataclasses.replace(bundle.header, ctx=Digest(number.to_bytes(32, "big")))
    return Upload(dataclasses.replace(bundle, header=header), HeldVector(content)), content


@pytest.mark.usefixtures("_quick")
def test_an_upload_survives_two_hundred_cuts_wherever_they_fall(consortium: Consortium, tmp_path: Path) -> None:
    """One upload after the other over a line that cuts each connection at a random byte, in the handshake or later."""
    rng = random.Random(20)
    budgets = [rng.randrange(0, VECTOR_BYTES // 2) for _ in range(4 * CUTS)]
    machine, sent, events = ScriptedMachine(expected_bytes=VECTOR_BYTES), SentBytes(), queue.Queue[object]()
    log = EventLog(NODE, io.StringIO(), SteadyClock(), json_lines=True)
    with serving(consortium, tmp_path, machine) as server, cutting(server.address, budgets) as proxy:
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
        number = 0
        while proxy.cuts < CUTS:
            number += 1
            upload, content = _upload(number, rng)
            uploader.offer(upload)
            eventually(lambda wanted=number: _arrived(machine) >= wanted, within_s=40)  # type: ignore[misc]
            assert machine.vectors[NODE] == content, f"upload {number} is not what was sent"
        uploader.close()
        link.close()
    chunks = -(-VECTOR_BYTES // SMALL_CHUNK)
    assert machine.steps.count(("heard", NODE)) == number * chunks, "no chunk that was held was taken twice"


def _arrived(machine: ScriptedMachine) -> int:
    return len({message.header.ctx for _, message in machine.messages if isinstance(message, UploadBundle)})


# ---- a message of 4 GiB: HTTP/2 by hand, since no gRPC client would send it ----

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def _request(path: str) -> bytes:
    """Headers of a gRPC call in HPACK without Huffman: RFC 7541, literal fields with names from its static table."""
    fields = b"\x83\x87" + b"\x04" + _text(path) + b"\x01" + _text("localhost")
    fields += b"\x0f\x10" + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")
    return _frame(_HEADERS, _END_HEADERS, 1, fields)


def _answer(secure: ssl.SSLSocket) -> int:
    """Kind of the frame that ends stream 1, or the connection."""
    buffer = b""
    while True:
        while len(buffer) >= 9:
            size, kind, flags = int.from_bytes(buffer[:3], "big"), buffer[3], buffer[4]
            if len(buffer) < 9 + size:
                break
            stream = int.from_bytes(buffer[5:9], "big")
            buffer = buffer[9 + size :]
            if kind == _GOAWAY or (stream == 1 and (kind == _RST_STREAM or flags & _END_STREAM)):
                return kind
        more = secure.recv(1 << 16)
        if not more:
            return _GOAWAY
        buffer += more


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


@pytest.mark.parametrize("method", [SESSION, UPLOAD])
@pytest.mark.parametrize("claimed", [(4 << 20) + 1, 1 << 31, (1 << 32) - 1], ids=["4 MiB + 1", "2 GiB", "4 GiB - 1"])
def test_a_message_that_claims_to_be_huge_is_refused_before_room_is_made(
    consortium: Consortium, tmp_path: Path, method: str, claimed: int
) -> None:
    tls = consortium.tls(NODE)
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    with serving(consortium, tmp_path, ScriptedMachine()) as server:
        host, _, port = server.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, b""))
            before = _resident_bytes()
            secure.sendall(_request(method) + _frame(_DATA, 0, 1, b"\x00" + struct.pack(">I", claimed) + bytes(1000)))
            assert _answer(secure) in (_HEADERS, _RST_STREAM, _GOAWAY)
            assert _resident_bytes() - before < 32 << 20
        assert (server.machine.steps, server.machine.messages) == ([], [])
        channel = dial(server.address, tls, consortium.roster)  # and the service goes on
        hello = to_wire(enclose(NodeEnvelope, consortium.hello(NODE)))
        list(channel.stream_stream(SESSION, None, None)(iter([hello]), timeout=10))
        channel.close()


def test_the_same_upload_sent_over_two_lines_at_once_is_taken_once(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copied node, or a reconnect that overtakes: parts of both streams arrive in any order."""
    for module in ("aggregator.uploads", "fedvlm_secure.store.spool"):
        monkeypatch.setattr(f"{module}.CHUNK_BYTES", SMALL_CHUNK)
    upload, content = _upload(1, random.Random(3))
    machine = ScriptedMachine(expected_bytes=VECTOR_BYTES)

    def parts(resume: queue.Queue[int]) -> Iterator[bytes]:
        yield to_wire(UploadPart(bundle=upload.bundle))
        for index in range(resume.get(timeout=10), -(-VECTOR_BYTES // SMALL_CHUNK)):
            piece = content[index * SMALL_CHUNK : (index + 1) * SMALL_CHUNK]
            yield to_wire(UploadPart(chunk=Chunk(index=index, content=piece)))

    def send() -> None:
        done = False
        while not done:
            channel, resume = dial(server.address, consortium.tls(NODE), consortium.roster), queue.Queue[int]()
            try:
                for raw in channel.stream_stream(UPLOAD, None, None)(parts(resume), timeout=10):
                    reply = from_wire(UploadReply, raw)
                    resume.put(reply.chunks_held)
                    done = reply.complete
            except grpc.RpcError:
                continue  # the other line took over, or was faster by a chunk
            finally:
                channel.close()

    with serving(consortium, tmp_path, machine) as server:
        both = [threading.Thread(target=send, daemon=True) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join(20)
            assert not one.is_alive()
    assert machine.vectors == {NODE: content}
