"""Only members of the roster, over TLS 1.3, each under its own name."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aggregator import certificates
from aggregator.server import ServerTls
from fedvlm_secure.errors import IdentityError
from fedvlm_secure.types import NodeId, Secret
from fedvlm_secure.wire.codec import to_wire
from fedvlm_secure.wire.contract import SESSION, UPLOAD
from fedvlm_secure.wire.envelopes import NodeEnvelope, UploadPart, enclose
from fedvlm_secure.wire.tls13 import grpc
from node import channel as dialling
from node.channel import dial
from node.client import refusal
from node.keystore import create_keystore
from tests.support.consortium import (
    Consortium,
    RunningServer,
    ScriptedMachine,
    bundle_for,
    eventually,
    make_consortium,
    serving,
)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"), "hospital-a", "hospital-b")


@pytest.fixture
def server(consortium: Consortium, tmp_path: Path) -> Iterator[RunningServer]:
    with serving(consortium, tmp_path, ScriptedMachine()) as running:
        yield running


def _first_answer(channel: grpc.Channel, raw: bytes, method: str = SESSION) -> tuple[grpc.StatusCode, str]:
    """Status and stable code of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        next(channel.stream_stream(method, None, None)(iter([raw]), timeout=10))
    return caught.value.code(), refusal(caught.value)[0]


def _hello(consortium: Consortium, node: str) -> bytes:
    return to_wire(enclose(NodeEnvelope, consortium.hello(node)))


def _channel(server: RunningServer, ca: bytes, key: bytes | None, certificate: bytes | None) -> grpc.Channel:
    return grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca, key, certificate))


def test_a_member_is_let_in(consortium: Consortium, server: RunningServer) -> None:
    channel = dial(server.address, consortium.tls("hospital-a"), consortium.roster)
    call = channel.stream_stream(SESSION, None, None)(iter([_hello(consortium, "hospital-a")]), timeout=10)
    list(call)
    assert [node for node, _ in server.machine.messages] == ["hospital-a"]
    eventually(lambda: server.machine.steps[-1:] == [("disconnected", NodeId("hospital-a"))])
    channel.close()


def test_nobody_without_a_certificate(consortium: Consortium, server: RunningServer) -> None:
    channel = _channel(server, consortium.authority.ca_path.read_bytes(), None, None)
    status, _ = _first_answer(channel, _hello(consortium, "hospital-a"))
    assert status is grpc.StatusCode.UNAVAILABLE
    assert (server.machine.steps, server.machine.messages) == ([], [])


def test_nobody_of_another_consortium(consortium: Consortium, server: RunningServer, tmp_path: Path) -> None:
    other = make_consortium(tmp_path / "other", "hospital-a")
    tls = other.tls("hospital-a")
    ca = consortium.authority.ca_path.read_bytes()
    channel = _channel(server, ca, tls.key.read_bytes(), tls.certificate.read_bytes())
    status, _ = _first_answer(channel, _hello(consortium, "hospital-a"))
    assert status is grpc.StatusCode.UNAVAILABLE
    assert server.machine.messages == []


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("hospital-z", "NOT_IN_ROSTER", grpc.StatusCode.PERMISSION_DENIED),
        ("hospital-a", "PIN_MISMATCH", grpc.StatusCode.UNAUTHENTICATED),
    ],
)
def test_a_valid_certificate_that_is_not_pinned_is_refused_and_logged(
    consortium: Consortium, server: RunningServer, tmp_path: Path, name: str, code: str, status: grpc.StatusCode
) -> None:
    stranger = create_keystore(tmp_path / "stranger", NodeId(name))
    key = stranger.join_request().csr.public_key()
    certificate = consortium.authority.issue(NodeId(name), key, datetime.now(UTC))  # type: ignore[arg-type]
    ca = consortium.authority.ca_path.read_bytes()
    pem = certificate.public_bytes(Encoding.PEM)
    channel = _channel(server, ca, stranger.tls_key_path.read_bytes(), pem)
    assert _first_answer(channel, _hello(consortium, "hospital-a")) == (status, code)
    assert [event["code"] for event in server.events("refused")] == [code]
    assert server.machine.messages == []


def test_one_members_certificate_does_not_speak_for_another(consortium: Consortium, server: RunningServer) -> None:
    channel = dial(server.address, consortium.tls("hospital-a"), consortium.roster)
    denied = (grpc.StatusCode.PERMISSION_DENIED, "OTHER_NODE")
    assert _first_answer(channel, _hello(consortium, "hospital-b")) == denied
    bundle = to_wire(UploadPart(bundle=bundle_for("hospital-b", b"12345678")))
    assert _first_answer(channel, bundle, UPLOAD) == denied
    assert (server.machine.steps, server.machine.messages) == ([], [])
    channel.close()


@pytest.mark.parametrize(
    ("version", "accepted"), [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)], ids=["1.2", "1.3"]
)
def test_only_tls_1_3_is_spoken(
    consortium: Consortium, server: RunningServer, version: ssl.TLSVersion, accepted: bool
) -> None:
    tls = consortium.tls("hospital-a")
    context = ssl.create_default_context(cafile=tls.ca)
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        if accepted:
            with context.wrap_socket(raw, server_hostname="localhost") as secure:
                assert secure.version() == "TLSv1.3"
        else:
            with pytest.raises(OSError):
                context.wrap_socket(raw, server_hostname="localhost")


def test_a_second_live_session_of_one_identity_is_refused_with_evidence(
    consortium: Consortium, server: RunningServer
) -> None:
    first = dial(server.address, consortium.tls("hospital-a"), consortium.roster)
    hold = iter([_hello(consortium, "hospital-a")])
    call = first.stream_stream(SESSION, None, None)(_then_wait(hold))
    eventually(lambda: server.sessions.nodes() == ["hospital-a"])
    second = dial(server.address, consortium.tls("hospital-a"), consortium.roster)
    assert _first_answer(second, _hello(consortium, "hospital-a"))[1] == "DUPLICATE_SESSION"
    (event,) = server.events("refused")
    assert event["node"] == "hospital-a" and str(event["cause"]).count("ipv4:127.0.0.1:") == 2
    assert server.sessions.nodes() == ["hospital-a"]
    call.cancel()
    eventually(lambda: server.sessions.nodes() == [])
    again = second.stream_stream(SESSION, None, None)(iter([_hello(consortium, "hospital-a")]), timeout=10)
    list(again)
    assert len(server.machine.messages) == 2
    first.close()
    second.close()


def _then_wait(messages: Iterator[bytes]) -> Iterator[bytes]:
    yield from messages
    threading.Event().wait(20)


def test_a_silent_session_gives_way_to_a_newer_one(
    consortium: Consortium, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.sessions.SILENT_S", 0.0)
    channels = [dial(server.address, consortium.tls("hospital-a"), consortium.roster) for _ in range(2)]
    calls = []
    for count, channel in enumerate(channels, 1):
        call = channel.stream_stream(SESSION, None, None)(_then_wait(iter([_hello(consortium, "hospital-a")])))
        calls.append(call)
        eventually(lambda wanted=count: len(server.machine.messages) == wanted)  # type: ignore[misc]
    assert list(calls[0]) == [], "the older one was ended"
    assert server.sessions.nodes() == ["hospital-a"]
    eventually(lambda: len(server.events("disconnected")) == 1)
    assert ("disconnected", NodeId("hospital-a")) not in server.machine.steps, "the newer one still stands"
    for call, channel in zip(calls, channels, strict=True):
        call.cancel()
        channel.close()


def test_a_node_hangs_up_on_a_server_that_is_not_the_pinned_one(consortium: Consortium, tmp_path: Path) -> None:
    key, certificate = _impostor(consortium, tmp_path)
    tls = ServerTls(Secret(key), certificate, consortium.authority.ca_path.read_bytes())
    with serving(consortium, tmp_path, ScriptedMachine(), tls=tls) as server:
        with pytest.raises(IdentityError) as caught:
            dial(server.address, consortium.tls("hospital-a"), consortium.roster)
        assert caught.value.code in ("PIN_MISMATCH", "CERTIFICATE_NAME")
    other = make_consortium(tmp_path / "other", "hospital-a")
    with (
        serving(other, tmp_path / "b", ScriptedMachine()) as server,
        pytest.raises(IdentityError) as caught,
    ):
        dial(server.address, consortium.tls("hospital-a"), consortium.roster)
    assert caught.value.code == "TLS_REFUSED"


def test_the_channel_itself_is_pinned_not_only_the_first_handshake(
    consortium: Consortium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = consortium.authority.server_certificate_path.read_bytes()
    monkeypatch.setattr(dialling, "server_certificate", lambda address, tls: pinned)
    key, certificate = _impostor(consortium, tmp_path)
    tls = ServerTls(Secret(key), certificate, consortium.authority.ca_path.read_bytes())
    with serving(consortium, tmp_path, ScriptedMachine(), tls=tls) as server:
        channel = dial(server.address, consortium.tls("hospital-a"), consortium.roster)
        assert _first_answer(channel, _hello(consortium, "hospital-a"))[0] is grpc.StatusCode.UNAVAILABLE
        assert server.machine.messages == []
        channel.close()


def _impostor(consortium: Consortium, folder: Path) -> tuple[bytes, bytes]:
    """Another key with a server certificate of the right CA and the right name."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority = consortium.authority
    certificate = certificates.make_server(
        authority.ca, authority._ca_key, key.public_key(), ["localhost", "127.0.0.1"], datetime.now(UTC)
    )
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )
