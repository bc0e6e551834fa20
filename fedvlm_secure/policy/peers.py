"""The other end of a TLS connection, checked against the pinned roster: the CA alone vouches for nobody."""

from __future__ import annotations

from cryptography import x509

from fedvlm_secure.errors import IdentityError
from fedvlm_secure.policy import identity
from fedvlm_secure.policy.roster import Roster
from fedvlm_secure.types import NodeId


def node_behind(certificate_pem: bytes, roster: Roster) -> NodeId:
    """Which hospital presented this client certificate.

    Args:
        certificate_pem: the peer's certificate from the TLS auth context, its chain already verified.
        roster: the pinned roster.

    Raises:
        IdentityError: CERTIFICATE_NAME, TLS_KEY_KIND, NOT_IN_ROSTER, or PIN_MISMATCH for another key.
    """
    certificate = _load(certificate_pem)
    node = identity.certificate_node(certificate)
    if identity.spki_sha256(identity.tls_key(certificate)) != roster.member(node).spki_sha256:
        raise IdentityError("PIN_MISMATCH", f"the TLS key of {node} is not the one in the roster", "ask the hospital")
    return node


def check_aggregator(certificate_pem: bytes, roster: Roster) -> None:
    """Refuse a server that is not the roster's aggregator.

    Raises:
        IdentityError: CERTIFICATE_NAME, TLS_KEY_KIND or PIN_MISMATCH.
    """
    certificate = _load(certificate_pem)
    if identity.certificate_uris(certificate) != (identity.AGGREGATOR_URI,):
        raise IdentityError(
            "CERTIFICATE_NAME", "the server's certificate does not name an aggregator", "check the address"
        )
    if identity.spki_sha256(identity.tls_key(certificate)) != roster.aggregator.spki_sha256:
        raise IdentityError(
            "PIN_MISMATCH",
            "the server's TLS key is not the roster's aggregator",
            "look for a TLS-inspecting proxy; pin a new roster only after a call to the coordinator",
        )


def _load(certificate_pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise IdentityError("CERTIFICATE_NAME", "the peer's certificate cannot be read") from error
