"""AES-256-CTR as a seekable keystream of 64-bit words, written into place; and signed sums of several."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor

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
        self._context = _Counter(key, start)
        self._scratch = _Scratch()

    def add_to(self, words: Words) -> None:
        """Add the next `len(words)` keystream words to `words`, in place, modulo 2^64."""
        for at in range(0, len(words), CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            np.add(part, self._context.next(len(part), self._scratch), out=part)

    def subtract_from(self, words: Words) -> None:
        """Subtract the next `len(words)` keystream words from `words`, in place, modulo 2^64."""
        for at in range(0, len(words), CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            np.subtract(part, self._context.next(len(part), self._scratch), out=part)

    def take(self, count: int) -> Words:
        """The next `count` words as a new array: uint64 [count], uniform in [0, 2^64)."""
        words: Words = np.empty(count, dtype=np.uint64)
        for at in range(0, count, CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            part[:] = self._context.next(len(part), self._scratch)
        return words

    def peek(self, count: int) -> Words:
        """The next `count` words, at most CACHE_WORDS, in this stream's own buffer: valid until the next call."""
        return self._context.next(count, self._scratch)


class _Scratch:
    """One buffer of keystream that stays in cache."""

    def __init__(self) -> None:
        self.buffer = bytearray(CACHE_WORDS * WORD_BYTES)
        self.words: Words = np.frombuffer(self.buffer, dtype="<u8")


class _Counter:
    """The cipher's state, without a buffer: thousands of them are small."""

    def __init__(self, key: Secret, start: int) -> None:
        if len(key) != 32:
            raise ValueError("a keystream key has 32 bytes")
        if start < 0 or start % 2:
            raise ValueError("a keystream starts at an even word")
        counter = (start * WORD_BYTES // _BLOCK_BYTES).to_bytes(16, "big")
        self._context = Cipher(algorithms.AES256(key.reveal()), modes.CTR(counter)).encryptor()

    def next(self, count: int, scratch: _Scratch) -> Words:
        zeros = _ZEROS if count == CACHE_WORDS else memoryview(_ZEROS)[: count * WORD_BYTES]
        self._context.update_into(zeros, scratch.buffer)
        return scratch.words if count == CACHE_WORDS else scratch.words[:count]


class KeystreamSum:
    """The sum of some keystreams less the sum of others, word by word, modulo 2^64.

    All streams pass over one piece of 128 KiB before the next piece is touched, so that the words they are added to
    are read from memory and written back once, however many streams there are.

    Args:
        added, subtracted: 32-byte keys, as for `Keystream`.
        start: first word, even.
    """

    def __init__(self, added: Sequence[Secret], subtracted: Sequence[Secret], *, start: int = 0) -> None:
        self._added = [_Counter(key, start) for key in added]
        self._subtracted = [_Counter(key, start) for key in subtracted]
        self._scratch = _Scratch()

    def add_to(self, words: Words) -> None:
        """Add the sum's next `len(words)` words to `words`, in place. All but the last call take an even count."""
        scratch = self._scratch
        for at in range(0, len(words), CACHE_WORDS):
            part = words[at : at + CACHE_WORDS]
            for stream in self._added:
                np.add(part, stream.next(len(part), scratch), out=part)
            for stream in self._subtracted:
                np.subtract(part, stream.next(len(part), scratch), out=part)


def add_keystreams(
    words: Words,
    added: Sequence[Secret],
    subtracted: Sequence[Secret],
    *,
    pool: Executor | None = None,
    parts: int = 1,
) -> None:
    """Add some whole keystreams to `words` and subtract others, in place: uint64 [words].

    Args:
        pool: where the parts run beside each other (cipher and numpy release the interpreter's lock); None: here.
        parts: how many equal parts of whole chunks the vector is cut into, >= 1.
    """
    size = max(1, -(-len(words) // (CHUNK_WORDS * parts))) * CHUNK_WORDS
    starts = range(0, len(words), size)

    def work(start: int) -> None:
        KeystreamSum(added, subtracted, start=start).add_to(words[start : start + size])

    if pool is None or len(starts) < 2:
        for start in starts:
            work(start)
    else:
        for done in [pool.submit(work, start) for start in starts]:
            done.result()
