"""JoinRequest: what a hospital hands to the consortium to be admitted. Public keys only, signed by the hospital."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from fedvlm_secure import canonical
from fedvlm_secure.errors import IdentityError
from fedvlm_secure.policy import identity
from fedvlm_secure.types import SIGNATURE_BYTES, Digest, NodeId, node_id

_FIELDS = frozenset({"version", "id", "csr", "identity", "signature"})


@dataclass(frozen=True)
class JoinRequest:
    """A hospital's name, TLS certificate request and Ed25519 identity (32 bytes), and that identity's signature.

    `renewal` is the signature of the identity that this one follows, where the hospital renews its keys.
    """

    node: NodeId
    csr: x509.CertificateSigningRequest
    identity: bytes
    signature: bytes
    renewal: bytes | None = None

    @property
    def spki_sha256(self) -> Digest:
        return identity.spki_sha256(identity.tls_key(self.csr))

    @property
    def fingerprint(self) -> str:
        """What the hospital reads out at the ceremony, and the roster shows again."""
        return identity.fingerprint(member_digest(self.node, self.identity, self.spki_sha256))

    def verify(self) -> None:
        """Check that one party holds both private keys and meant this name.

        Raises:
            IdentityError: JOIN_SIGNATURE, TLS_KEY_KIND or IDENTITY_KEY.
        """
        identity.tls_key(self.csr)
        try:
            signed = self.csr.is_signature_valid
            identity.identity_key(self.identity).verify(self.signature, _statement(self.node, self.csr, self.identity))
        except (InvalidSignature, UnsupportedAlgorithm) as error:
            raise _bad_signature() from error
        if not signed:
            raise _bad_signature()

    def verify_renewal(self, former: bytes) -> None:
        """Check that the holder of the former identity (32 bytes) asked for these keys in its place.

        Raises:
            IdentityError: RENEWAL_SIGNATURE.
        """
        try:
            identity.identity_key(former).verify(self.renewal or b"", _renewal(self.node, self.csr, self.identity))
        except InvalidSignature as error:
            raise IdentityError(
                "RENEWAL_SIGNATURE",
                f"the former identity of {self.node} did not sign this renewal",
                "the hospital runs fedvlm-node renew where its admitted keys are; for lost keys see --replace",
            ) from error

    def to_json(self) -> bytes:
        """The NODE.join file."""
        fields: dict[str, object] = {
            "version": 1,
            "id": self.node,
            "csr": self.csr.public_bytes(Encoding.PEM).decode("ascii"),
            "identity": identity.encode_identity(self.identity),
            "signature": base64.b64encode(self.signature).decode("ascii"),
        }
        if self.renewal is not None:
            fields["renewal"] = base64.b64encode(self.renewal).decode("ascii")
        return (json.dumps(fields, indent=2) + "\n").encode("ascii")


def member_digest(node: NodeId, identity_raw: bytes, spki: Digest) -> Digest:
    """The digest of one roster member, from which its fingerprint is read."""
    return canonical.digest("roster-member", node, identity_raw, spki)


def request(
    node: NodeId,
    csr: x509.CertificateSigningRequest,
    key: ed25519.Ed25519PrivateKey,
    former: ed25519.Ed25519PrivateKey | None = None,
) -> JoinRequest:
    """Make and sign a join request; `former` is the identity that `key` follows."""
    raw = identity.identity_bytes(key.public_key())
    renewal = None if former is None else former.sign(_renewal(node, csr, raw))
    return JoinRequest(node, csr, raw, key.sign(_statement(node, csr, raw)), renewal)


def parse(raw: bytes, origin: str) -> JoinRequest:
    """Read and verify a NODE.join file.

    Raises:
        IdentityError: JOIN_UNREADABLE when it is not one; else as `JoinRequest.verify`.
    """
    try:
        fields = json.loads(raw)
        if not isinstance(fields, dict) or frozenset(fields) - {"renewal"} != _FIELDS or fields["version"] != 1:
            raise ValueError("other fields")
        csr = x509.load_pem_x509_csr(fields["csr"].encode("ascii"))
        signature = _decode_signature(fields["signature"])
        renewal = _decode_signature(fields["renewal"]) if "renewal" in fields else None
        raw_identity = identity.decode_identity(fields["identity"])
        joined = JoinRequest(node_id(fields["id"]), csr, raw_identity, signature, renewal)
    except (ValueError, TypeError, AttributeError, RecursionError, x509.InvalidVersion) as error:
        raise IdentityError(
            "JOIN_UNREADABLE",
            f"{origin} is not a join file",
            "ask the hospital for the .join file of `fedvlm-node init`",
        ) from error
    joined.verify()
    return joined


def _decode_signature(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    if len(raw) != SIGNATURE_BYTES:
        raise ValueError("signature length")
    return raw


def _statement(node: NodeId, csr: x509.CertificateSigningRequest, identity_raw: bytes) -> bytes:
    return canonical.digest("join", node, csr.public_bytes(Encoding.DER), identity_raw)


def _renewal(node: NodeId, csr: x509.CertificateSigningRequest, identity_raw: bytes) -> bytes:
    return canonical.digest("renewal", node, csr.public_bytes(Encoding.DER), identity_raw)


def _bad_signature() -> IdentityError:
    return IdentityError(
        "JOIN_SIGNATURE", "a signature in the join file does not verify", "ask the hospital to send it again"
    )
