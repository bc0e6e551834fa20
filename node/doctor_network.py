"""Looks at the way to the aggregator: who really answers there, and what gRPC would put in between."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedvlm_secure.policy.identity import AGGREGATOR_URI, certificate_uris
from fedvlm_secure.policy.roster import Roster
from node.finding import FEW_DAYS, Finding

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""gRPC takes the first that is set, in lower case only; see its guide to the default HTTP proxy mapper."""
EXEMPTIONS = ("no_grpc_proxy", "no_proxy")
_CONNECT_S = 5.0
_LONGEST_NAME = 200


def look_at_port(address: str) -> Finding:
    """Whether the aggregator's port takes connections."""
    try:
        with socket.create_connection(_split(address), timeout=_CONNECT_S):
            return Finding("aggregator", "ok", f"{address} takes connections")
    except OSError as error:
        cause = error.strerror or "no answer"
        hint = "ask whether the aggregator runs, and whether the firewall lets this port out"
        return Finding("aggregator", "wrong", f"{address}: {cause}", hint)


def look_at_tls(address: str, roster: Roster, now: datetime) -> Finding:
    """Compare the key that really answers with the pinned one, whoever issued its certificate.

    Nothing of this hospital's is presented, and no certificate is trusted: what answers is only looked at.
    """
    try:
        certificate, version = presented(address)
        found = _spki(certificate)
    except ssl.SSLError as error:
        hint = "something else than the aggregator, or a device in between, answers there"
        return Finding("tls", "wrong", f"{address}: no TLS handshake ({error.reason or 'refused'})", hint)
    except OSError:
        return Finding("tls", "warning", "not looked at: there is no connection", "see the line about the aggregator")
    except (ValueError, UnsupportedAlgorithm):
        return Finding("tls", "wrong", f"{address}: its certificate cannot be read", "look for a device in between")
    pinned = roster.aggregator.spki_sha256.hex()
    if found != pinned or certificate_uris(certificate) != (AGGREGATOR_URI,):
        issuer = certificate.issuer.rfc4514_string()[:_LONGEST_NAME] or "nobody"
        return Finding(
            "tls",
            "wrong",
            f"{address} answers with key {found[:16]}..., issued by {issuer}; the roster pins {pinned[:16]}...",
            "if that issuer is your own network's, it inspects TLS: have this address passed through untouched; "
            "otherwise call the coordinator before you pin anything new",
        )
    return _validity(certificate, version, now)


def presented(address: str) -> tuple[x509.Certificate, str]:
    """The certificate that answers at `host:port`, unverified, and the TLS version.

    Raises:
        OSError: no connection; ssl.SSLError: no handshake.
        ValueError: no certificate that can be read.
    """
    host, port = _split(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # an impostor's certificate is what this look wants to see
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=_CONNECT_S) as raw,
        context.wrap_socket(raw, server_hostname=host) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b""), secure.version() or "?"


def look_at_proxy(address: str, environment: Mapping[str, str]) -> Finding:
    """Whether gRPC would go through a proxy that the environment names."""
    name = next((name for name in PROXY_VARIABLES if environment.get(name)), None)
    if name is None:
        return Finding("proxy", "ok", "no variable that gRPC obeys is set")
    host, _ = _split(address)
    exempt = next((environment[each] for each in EXEMPTIONS if environment.get(each)), "")
    parts = urlsplit(environment[name])
    shown = f"{parts.hostname or 'unreadable'}{f':{parts.port}' if _port_of(parts.netloc) else ''}"
    if any(_matches(host, entry.strip()) for entry in exempt.split(",")):
        return Finding("proxy", "ok", f"{name} names {shown}, but {host} is exempt")
    return Finding(
        "proxy",
        "warning",
        f"{name} sends gRPC through {shown}, while the first handshake goes to {host} directly",
        f"set no_grpc_proxy={host} for the service, unless the proxy alone leads out and does not inspect TLS",
    )


def _validity(certificate: x509.Certificate, version: str, now: datetime) -> Finding:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        text = f"the pinned key answers, its certificate is for {first:%Y-%m-%d} to {last:%Y-%m-%d}, not for this clock"
        return Finding(
            "tls", "wrong", text, "set this machine's clock, or ask the coordinator to renew the certificate"
        )
    days = (last - now).days
    hint = "tell the coordinator to renew it" if days < FEW_DAYS else ""
    return Finding(
        "tls",
        "warning" if hint else "ok",
        f"the pinned key answers over {version}; its certificate has {days} days",
        hint,
    )


def _spki(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _port_of(netloc: str) -> bool:
    return netloc.rpartition(":")[2].isdigit()


def _matches(host: str, entry: str) -> bool:
    """As gRPC: a suffix of the name, or for an address the address or a network that holds it."""
    if not entry:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host.lower().endswith(entry.lower())
