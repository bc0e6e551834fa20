"""The keystream is AES-256-CTR, seekable, and adds and subtracts modulo 2^64."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlm_secure.ring.keystream import CACHE_WORDS, CHUNK_WORDS, Keystream
from fedvlm_secure.types import Secret
from tests.support.entropy import secret, words
from tests.support.vectors import unhex, vector


def test_keystream_is_aes_256_ctr_of_nist() -> None:
    expect = vector("nist-sp800-38a")
    start = 2 * int(expect["counter"], 16)  # two words to a block
    stream = Keystream(Secret(unhex(expect["key"])), start=start).take(8)
    plain = np.frombuffer(unhex(expect["plaintext"]), dtype="<u8")
    assert (stream ^ plain).tobytes().hex() == expect["ciphertext"]


@pytest.mark.parametrize("start", [2, CACHE_WORDS, CHUNK_WORDS, CACHE_WORDS + 6])
def test_stream_from_the_middle_is_the_middle_of_the_stream(start: int) -> None:
    whole = Keystream(secret("seek")).take(start + 1000)
    assert np.array_equal(Keystream(secret("seek"), start=start).take(1000), whole[start:])


def test_pieces_of_a_stream_are_the_stream_where_each_ends_at_a_block() -> None:
    whole = Keystream(secret("pieces")).take(2 * CACHE_WORDS)
    stream = Keystream(secret("pieces"))
    assert np.array_equal(
        np.concatenate([stream.take(n) for n in (2, 100, CACHE_WORDS, 4)]), whole[: CACHE_WORDS + 106]
    )


@pytest.mark.parametrize("count", [1, 2, 3, CACHE_WORDS - 1, CACHE_WORDS, CACHE_WORDS + 1, 3 * CACHE_WORDS + 7])
def test_what_is_added_is_taken_off_again(count: int) -> None:
    plain = words("plain", count)
    masked = plain.copy()
    Keystream(secret("mask")).add_to(masked)
    assert np.array_equal(masked, plain + Keystream(secret("mask")).take(count))
    assert not np.array_equal(masked, plain)
    Keystream(secret("mask")).subtract_from(masked)
    assert np.array_equal(masked, plain)


@pytest.mark.parametrize("start", [-2, 1, 3])
def test_stream_does_not_start_inside_a_block(start: int) -> None:
    with pytest.raises(ValueError, match="even word"):
        Keystream(secret("start"), start=start)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_key_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Keystream(Secret(bytes(size)))
