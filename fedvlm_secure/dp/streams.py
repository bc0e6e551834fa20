"""Independent keystreams from one key: each purpose has its own AES key, so that no bit serves twice."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fedvlm_secure import canonical
from fedvlm_secure.ring.keystream import Keystream
from fedvlm_secure.types import Secret

KEY_BYTES = 32


def stream(key: Secret, purpose: str, *context: object) -> Keystream:
    """The keystream of one purpose under a key that is used for this call only.

    Args:
        key: 32 uniform bytes.
        purpose: label, covered together with `context` by HKDF-Expand's `info` (RFC 5869 section 2.3).

    Raises:
        ValueError: the key does not have 32 bytes.
    """
    if len(key) != KEY_BYTES:
        raise ValueError("a noise, rounding or sampling key has 32 bytes")
    info = canonical.encode([canonical.LABEL_PREFIX + "dp-" + purpose, *context])
    return Keystream(Secret(HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=info).derive(key.reveal())))
