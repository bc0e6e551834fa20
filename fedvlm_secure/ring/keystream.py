"""AES-256-CTR as a seekable keystream of 64-bit words, written into place chunk by chunk."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedvlm_secure.ring.lanes import WORD_BYTES
from fedvlm_secure.types import Secret, Words

CHUNK_WORDS = 131_072
"""One chunk (1 MiB) is the unit everywhere: wire message, tree leaf, check word, resume point, seek."""

CACHE_WORDS = 16_384
"""128 KiB: keystream and accumulator stay in cache together."""

_BLOCK_BYTES = 16
_ZEROS = bytes(CACHE_WORDS * WORD_BYTES)


class Keystream:
    """The words of AES-256-CTR under one 32-byte key, counter from zero, from a given word on.

    Args:
        key: 32 uniform bytes that are used for this one stream only (the nonce is therefore zero).
        start: first word, a multiple of 2 (an AES block holds two words).

    Source: NIST SP 800-38A section 6.5 (CTR).
    """

    def __init__(self, key: Secret, *, start: int = 0) -> None:
        if len(key) != 32:
            raise ValueError("a keystream key has 32 bytes")
        if start < 0 or start % 2:
            raise ValueError("a keystream starts at an even word")
        counter = (start * WORD_BYTES // _BLOCK_BYTES).to_bytes(16, "big")
        self._context = Cipher(algorithms.AES256(key.reveal()), modes.CTR(counter)).encryptor()
        self._buffer = bytearray(CACHE_WORDS * WORD_BYTES)
        self._words = np.frombuffer(self._buffer, dtype="<u8")

    def _next(self, count: int) -> Words:
        self._context.update_into(memoryview(_ZEROS)[: count * WORD_BYTES], self._buffer)
        return self._words[:count]

    def add_to(self, words: Words) -> None:
        """Add the next `len(words)` keystream words to `words`, in place, modulo 2^64."""
        for at in range(0, len(words), CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            np.add(part, self._next(len(part)), out=part)

    def subtract_from(self, words: Words) -> None:
        """Subtract the next `len(words)` keystream words from `words`, in place, modulo 2^64."""
        for at in range(0, len(words), CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            np.subtract(part, self._next(len(part)), out=part)

    def take(self, count: int) -> Words:
        """The next `count` words as a new array: uint64 [count], uniform in [0, 2^64)."""
        words: Words = np.zeros(count, dtype=np.uint64)
        self.add_to(words)
        return words
