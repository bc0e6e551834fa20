"""Pair roots from X25519, their ratchet by round number, and the keys derived for one attempt."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.types import Digest, NodeId, Secret

KEY_BYTES = 32
_FIELD_PRIME = 2**255 - 19


def _derive(key: Secret, label: str, *context: object) -> Secret:
    """HKDF-Expand (RFC 5869 section 2.3) under a uniform key; label and context go into `info` canonically."""
    info = canonical.encode([canonical.LABEL_PREFIX + label, *context])
    return Secret(HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=info).derive(key.reveal()))


def check_public_key(public: bytes) -> X25519PublicKey:
    """Parse a peer's X25519 key.

    Raises:
        PeerViolation: WEAK_KEY, wrong length, a point of low order (the shared value would be known to all), or a
            second spelling of a key: RFC 7748 ignores the top bit and reduces modulo p, so that an echo of somebody's
            key would pass as another one.
    """
    if len(public) == KEY_BYTES and int.from_bytes(public, "little") < _FIELD_PRIME:
        try:
            key = X25519PublicKey.from_public_bytes(public)
            # RFC 7748 section 6.1: a low-order point gives all zeros under every private key; the library refuses it.
            X25519PrivateKey.from_private_bytes(bytes(range(KEY_BYTES))).exchange(key)
            return key
        except ValueError:
            pass
    raise PeerViolation(
        "WEAK_KEY", "an X25519 key is of the wrong length or form, or of low order", "the peer lies; leave"
    )


def pair_root(private: Secret, peer_public: bytes, roster_hash: Digest) -> Secret:
    """r_uv^0: the epoch's root of a pair; both ends derive the same.

    Raises:
        PeerViolation: WEAK_KEY.
    """
    peer = check_public_key(peer_public)
    shared = X25519PrivateKey.from_private_bytes(private.reveal()).exchange(peer)
    info = canonical.encode([canonical.LABEL_PREFIX + "pair-root"])
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=bytes(roster_hash), info=info).derive(shared)
    return Secret(derived)


def public_key(private: Secret) -> bytes:
    """The X25519 public key of a private key, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private.reveal()).public_key().public_bytes_raw()


def ratchet(root: Secret) -> Secret:
    """The next round's root; the step cannot be turned back."""
    return _derive(root, "ratchet")


def pair_seed(root: Secret, ctx: Digest, one: NodeId, other: NodeId) -> Secret:
    """p_uv, the seed of the pair's mask in this attempt; the order of the ends does not matter."""
    return _derive(root, "pair", ctx, min(one, other), max(one, other))


def share_key(root: Secret, ctx: Digest, dealer: NodeId, holder: NodeId) -> Secret:
    """The AES-256-GCM key under which `dealer` seals `holder`'s shares in this attempt."""
    return _derive(root, "share", ctx, dealer, holder)
