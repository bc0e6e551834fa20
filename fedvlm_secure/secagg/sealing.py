"""Shares on their way from dealer to holder, under AES-256-GCM."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedvlm_secure import canonical
from fedvlm_secure.secagg.shamir import SHARE_BYTES
from fedvlm_secure.types import Digest, Entropy, NodeId, Secret

_NONCE_BYTES = 12
_TAG_BYTES = 16


def _aad(ctx: Digest, dealer: NodeId, holder: NodeId) -> bytes:
    return canonical.encode([canonical.LABEL_PREFIX + "sealed-shares", ctx, dealer, holder])


def sealed_size(secrets: int) -> int:
    """Bytes of one sealed blob."""
    return _NONCE_BYTES + secrets * SHARE_BYTES + _TAG_BYTES


def seal(
    key: Secret, shares: Sequence[Secret], *, ctx: Digest, dealer: NodeId, holder: NodeId, entropy: Entropy
) -> bytes:
    """Nonce (96 random bits), then the shares in order of their secret ids, then the tag."""
    nonce = entropy.bytes(_NONCE_BYTES)
    plain = b"".join(share.reveal() for share in shares)
    return nonce + AESGCM(key.reveal()).encrypt(nonce, plain, _aad(ctx, dealer, holder))


def open_sealed(
    key: Secret, blob: bytes, *, ctx: Digest, dealer: NodeId, holder: NodeId, secrets: int
) -> tuple[bytes, ...] | None:
    """The shares, or None where the blob has another length or does not authenticate."""
    if len(blob) != sealed_size(secrets):
        return None
    try:
        plain = AESGCM(key.reveal()).decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], _aad(ctx, dealer, holder))
    except InvalidTag:
        return None
    return tuple(plain[at : at + SHARE_BYTES] for at in range(0, len(plain), SHARE_BYTES))
