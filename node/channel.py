"""The line to the aggregator: mutual TLS 1.3 to the one server whose key the roster pins.

gRPC verifies a chain but tells its client nothing about the server's certificate. So each connection is made twice.
A first handshake, by Python's `ssl`, reads the certificate and compares name and key with the roster. Then gRPC gets
that very certificate as its only root: it accepts a chain that ends there (partial chains are allowed) and no other,
so what gRPC speaks to holds the pinned key too, whatever answers in between. The host name is not compared: the pin
says more, and hospitals reach the aggregator by addresses of their own.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from fedvlm_secure.errors import IdentityError
from fedvlm_secure.policy.peers import check_aggregator
from fedvlm_secure.policy.private_file import read_file, read_private
from fedvlm_secure.policy.roster import Roster
from fedvlm_secure.wire.contract import CHANNEL_OPTIONS
from fedvlm_secure.wire.tls13 import grpc, require_only_tls13

_HANDSHAKE_S = 10.0


@dataclass(frozen=True)
class NodeTls:
    """Where a node's TLS files are (PEM): its private key, its certificate, the consortium's CA."""

    key: Path
    certificate: Path
    ca: Path


class Unreachable(ConnectionError):
    """Nobody answers at the address, or the line broke: try again later."""


def dial(address: str, tls: NodeTls, roster: Roster) -> grpc.Channel:
    """Open a channel to the pinned aggregator.

    Args:
        address: `host:port`.

    Raises:
        Unreachable: no answer.
        IdentityError: PIN_MISMATCH, CERTIFICATE_NAME, TLS_KEY_KIND, or TLS_REFUSED: what answers is not the
            aggregator of the roster, or speaks less than TLS 1.3.
    """
    require_only_tls13()
    certificate = server_certificate(address, tls)
    check_aggregator(certificate, roster)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=certificate,
        private_key=read_private(tls.key, missing_hint="run `fedvlm-node init`"),
        certificate_chain=read_file(tls.certificate, missing_hint="run `fedvlm-node install`"),
    )
    options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", _name_in(certificate)))
    return grpc.secure_channel(address, credentials, options=options)


def server_certificate(address: str, tls: NodeTls) -> bytes:
    """The certificate (PEM) of whatever answers at `address`, its chain verified up to the consortium's CA.

    Raises:
        Unreachable: no answer.
        IdentityError: TLS_REFUSED.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=read_file(tls.ca, missing_hint="run `fedvlm-node install`").decode("ascii"))
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_HANDSHAKE_S) as raw,
            context.wrap_socket(raw) as secure,
        ):
            found = secure.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        raise IdentityError(
            "TLS_REFUSED",
            f"{address} does not present a certificate of the consortium over TLS 1.3 ({error.reason})",
            "look for a TLS-inspecting proxy; check the address and the certificates' dates",
        ) from error
    except OSError as error:
        raise Unreachable(f"{address}: {error.strerror or error}") from error
    return ssl.DER_cert_to_PEM_cert(found or b"").encode("ascii")


def _name_in(certificate: bytes) -> str:
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    hosts = names.value.get_values_for_type(x509.DNSName)
    if not hosts:
        raise IdentityError("CERTIFICATE_NAME", "the aggregator's certificate has no host name", "renew it")
    return hosts[0]
