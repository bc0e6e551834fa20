"""Stolen, foreign and unlisted certificates, over real mutual TLS and against the pins."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from aggregator import admission
from aggregator.authority import create_authority
from fedvlm_secure.errors import IdentityError
from fedvlm_secure.policy import peers
from fedvlm_secure.types import node_id
from node.keystore import Keystore

Consortium = Any
METHOD = "/trial/WhoAmI"


class WhoAmI(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers with the node id behind the caller's certificate."""

    def __init__(self, consortium: Consortium) -> None:
        self._consortium = consortium

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
            certificates: Any = context.auth_context()  # the stubs call its values numbers
            (pem,) = certificates["x509_pem_cert"]
            try:
                return peers.node_behind(pem, admission.roster(self._consortium.authority)).encode()
            except IdentityError as error:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, error.code)
                raise

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def port(consortium: Consortium) -> Iterator[int]:
    authority = consortium.authority
    pair = (authority.server_key_path.read_bytes(), authority.server_certificate_path.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.ca_path.read_bytes(), require_client_auth=True)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[WhoAmI(consortium)])
    bound = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield bound
    server.stop(0).wait()


def ask(port: int, ca: bytes, key: bytes | None, certificate: bytes | None) -> str:
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        call = channel.unary_unary(METHOD, bytes, bytes)
        answer: bytes = call(b"", timeout=5)
    return answer.decode()


def installed(consortium: Consortium, name: str, now: datetime) -> Keystore:
    keystore: Keystore = consortium.hospital(name)
    bundle = consortium.admit(keystore).bundle.read_bytes()
    keystore.install(bundle, consortium.roster(), now)
    return keystore


def test_identity_comes_from_the_certificate_alone(consortium: Consortium, port: int, now: datetime) -> None:
    for name in ("hospital-a", "hospital-b"):
        keystore = installed(consortium, name, now)
        files = (keystore.ca_path, keystore.tls_key_path, keystore.certificate_path)
        assert ask(port, *(path.read_bytes() for path in files)) == name


def test_no_certificate_and_a_foreign_one_do_not_get_through(
    consortium: Consortium, port: int, tmp_path: Path, now: datetime
) -> None:
    ca = consortium.authority.ca_path.read_bytes()
    foreign, _ = create_authority(tmp_path / "foreign", consortium="trial", hosts=[], address="", now=now)
    keystore = consortium.hospital("hospital-a")
    leaf = admission.admit(foreign, keystore.join_request(), now).certificate.public_bytes(Encoding.PEM)
    for key, certificate in ((None, None), (keystore.tls_key_path.read_bytes(), leaf)):
        with pytest.raises(grpc.RpcError) as caught:
            ask(port, ca, key, certificate)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_valid_certificate_outside_the_roster_is_refused(consortium: Consortium, port: int, now: datetime) -> None:
    keystore = installed(consortium, "hospital-a", now)
    (consortium.authority.home / "members" / "hospital-a.join").unlink()
    with pytest.raises(grpc.RpcError) as caught:
        ask(
            port,
            keystore.ca_path.read_bytes(),
            keystore.tls_key_path.read_bytes(),
            keystore.certificate_path.read_bytes(),
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "NOT_IN_ROSTER"


def test_a_certificate_of_the_right_ca_and_name_but_another_key_is_refused(
    consortium: Consortium, now: datetime
) -> None:
    """The CA is the coordinator's: it could issue itself any name, and the pin is what stops it."""
    installed(consortium, "hospital-a", now)
    stolen_name = consortium.authority.issue(
        node_id("hospital-a"), ec.generate_private_key(ec.SECP256R1()).public_key(), now
    )
    with pytest.raises(IdentityError) as caught:
        peers.node_behind(stolen_name.public_bytes(Encoding.PEM), admission.roster(consortium.authority))
    assert caught.value.code == "PIN_MISMATCH"


def test_a_server_certificate_is_no_hospital_and_a_hospital_no_server(consortium: Consortium, now: datetime) -> None:
    keystore = installed(consortium, "hospital-a", now)
    roster = admission.roster(consortium.authority)
    server = consortium.authority.server_certificate_path.read_bytes()
    peers.check_aggregator(server, roster)
    with pytest.raises(IdentityError, match="names no hospital"):
        peers.node_behind(server, roster)
    with pytest.raises(IdentityError, match="does not name an aggregator"):
        peers.check_aggregator(keystore.certificate_path.read_bytes(), roster)
    with pytest.raises(IdentityError, match="cannot be read"):
        peers.node_behind(b"nothing", roster)


def test_another_consortiums_aggregator_is_refused_by_its_pin(
    consortium: Consortium, tmp_path: Path, now: datetime
) -> None:
    foreign, _ = create_authority(tmp_path / "foreign", consortium="trial", hosts=[], address="", now=now)
    with pytest.raises(IdentityError) as caught:
        peers.check_aggregator(foreign.server_certificate_path.read_bytes(), admission.roster(consortium.authority))
    assert caught.value.code == "PIN_MISMATCH"
    assert "proxy" in caught.value.hint
