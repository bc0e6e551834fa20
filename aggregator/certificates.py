"""A consortium's certificates: one CA, one server, one client per hospital. They give TLS; the roster gives trust."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import identity
from fedvlm_secure.types import NodeId

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=825)
_CLOCK_SKEW = timedelta(hours=1)
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def make_ca(key: ec.EllipticCurvePrivateKey, consortium: str, now: datetime) -> x509.Certificate:
    """A self-signed CA certificate that may issue leaves only."""
    name = _name(f"{consortium[:40]} fedvlm CA")
    return (
        _builder(name, name, key.public_key(), now, CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def make_server(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    now: datetime,
) -> x509.Certificate:
    """The aggregator's server certificate for `hosts` (DNS names or IP addresses).

    Raises:
        PolicyError: HOST_NAME, one of them is neither.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.AGGREGATOR_URI)]
    names += [_host_name(host) for host in hosts]
    return _leaf(ca, ca_key, key, "aggregator", names, ExtendedKeyUsageOID.SERVER_AUTH, now)


def make_client(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    node: NodeId,
    now: datetime,
) -> x509.Certificate:
    """A hospital's client certificate. Its only name is the URI of `node`; what the request asked for is ignored."""
    names = [x509.UniformResourceIdentifier(identity.node_uri(node))]
    return _leaf(ca, ca_key, key, node, names, ExtendedKeyUsageOID.CLIENT_AUTH, now)


def server_hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names and IP addresses of a server certificate."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _leaf(
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePublicKey,
    common_name: str,
    names: Sequence[x509.GeneralName],
    purpose: x509.ObjectIdentifier,
    now: datetime,
) -> x509.Certificate:
    return (
        _builder(_name(common_name), ca.subject, key, now, LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_authority_key(ca), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    held = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _KEY_USAGES})


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        labels = host.split(".")
        if all(label and all(c.isascii() and (c.isalnum() or c == "-") for c in label) for label in labels):
            return x509.DNSName(host)
    raise PolicyError("HOST_NAME", f"{host[:80]!r} is neither a host name nor an IP address", "name it without a port")
