"""Who a key belongs to: Ed25519 identities, TLS key pins, names in certificates, fingerprints to be read out."""

from __future__ import annotations

import base64
import hashlib

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedvlm_secure.errors import IdentityError
from fedvlm_secure.types import Digest, NodeId, node_id

AGGREGATOR_URI = "spiffe://fedvlm/aggregator"
_NODE_URI_PREFIX = "spiffe://fedvlm/node/"
_IDENTITY_BYTES = 32
_PRIME = 2**255 - 19
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y = frozenset({0, 1, _PRIME - 1, _PRIME, _PRIME + 1, _ORDER_8_Y, _PRIME - _ORDER_8_Y})


def node_uri(node: NodeId) -> str:
    """The URI that names a hospital in its TLS certificate."""
    return _NODE_URI_PREFIX + node


def certificate_uris(certificate: x509.Certificate) -> tuple[str, ...]:
    """The URI names of a certificate; empty without the extension."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return ()  # none, or none that can be read: either way it names nobody
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def certificate_node(certificate: x509.Certificate) -> NodeId:
    """The hospital that a client certificate names.

    Raises:
        IdentityError: CERTIFICATE_NAME, it does not hold exactly one URI of the form spiffe://fedvlm/node/ID.
    """
    uris = certificate_uris(certificate)
    if len(uris) == 1 and uris[0].startswith(_NODE_URI_PREFIX):
        try:
            return node_id(uris[0].removeprefix(_NODE_URI_PREFIX))
        except ValueError as error:
            raise IdentityError("CERTIFICATE_NAME", "the certificate's node id is not well formed") from error
    raise IdentityError(
        "CERTIFICATE_NAME",
        "the certificate names no hospital of this consortium",
        "use the one `aggregator admit` issued",
    )


def spki_sha256(key: ec.EllipticCurvePublicKey) -> Digest:
    """SHA-256 of a TLS key's SubjectPublicKeyInfo in DER: what the roster pins, across renewals."""
    return Digest(hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest())


def tls_key(certificate: x509.Certificate | x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The TLS key of a certificate or request.

    Raises:
        IdentityError: TLS_KEY_KIND, it is not ECDSA on P-256.
    """
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("TLS_KEY_KIND", "the TLS key is not ECDSA on P-256", "run `fedvlm-node init`")
    return key


def identity_key(raw: bytes) -> ed25519.Ed25519PublicKey:
    """An Ed25519 identity from its 32 bytes.

    Raises:
        IdentityError: IDENTITY_KEY, wrong length, or a point of small order, whose signatures anybody can forge.

    Source: RFC 8032, section 5.1.3; small-order points: eight, in fourteen encodings, of seven y-coordinates.
    """
    if len(raw) != _IDENTITY_BYTES:
        raise IdentityError("IDENTITY_KEY", f"an Ed25519 identity has {_IDENTITY_BYTES} bytes, got {len(raw)}")
    if int.from_bytes(raw, "little") & ((1 << 255) - 1) in _SMALL_ORDER_Y:
        raise IdentityError("IDENTITY_KEY", "the Ed25519 identity is a point of small order", "make a new one")
    return ed25519.Ed25519PublicKey.from_public_bytes(raw)


def identity_bytes(key: ed25519.Ed25519PublicKey) -> bytes:
    """The 32 bytes of an Ed25519 identity."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def encode_identity(raw: bytes) -> str:
    """Base64 with padding, as it stands in roster and join files."""
    return base64.b64encode(raw).decode("ascii")


def decode_identity(text: str) -> bytes:
    """Inverse of `encode_identity`, checked as `identity_key` does.

    Raises:
        IdentityError: IDENTITY_KEY.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise IdentityError("IDENTITY_KEY", "an identity is 32 bytes in base64") from error
    if encode_identity(raw) != text:
        raise IdentityError("IDENTITY_KEY", "an identity is 32 bytes in base64, in its one canonical form")
    identity_key(raw)
    return raw


def fingerprint(digest: Digest) -> str:
    """Eight groups of five digits, to be compared by telephone: each from 4 of its 32 bytes, about 132 bits in all.

    Source: after the numeric fingerprints of the Signal protocol, which take groups of digits modulo 100,000.
    """
    groups = (int.from_bytes(digest[at : at + 4], "big") for at in range(0, 32, 4))
    return " ".join(f"{group % 100_000:05d}" for group in groups)
