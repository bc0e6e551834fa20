"""Tags against the formula written out with Python's integers and an HKDF and AES of the tests' own."""

from __future__ import annotations

import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedvlm_secure import canonical
from fedvlm_secure.he.parameters import TAG_PRIME, TAGS, HeParameters, is_prime
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.types import Digest, NodeId
from tests.he.encrypted_cohort import EncryptedCohort, parameters_for
from tests.support.entropy import secret

KEY, CTX = secret("group key"), Digest(bytes([9]) * 32)
A, B = NodeId("a"), NodeId("b")


def stream(label: str, *context: object, words: int) -> list[int]:
    """AES-256-CTR words under HKDF-Expand (RFC 5869 section 2.3, one block)."""
    info = canonical.encode([f"fedvlm/v1/{label}", *context])
    key = hmac.digest(KEY.reveal(), info + b"\x01", "sha256")
    raw = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(words * 8))
    return [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]


@pytest.mark.parametrize(
    "own",
    [parameters_for("bfv", 3), parameters_for("ckks", 32), parameters_for("bfv", 100, 22)],
    ids=["3", "32", "100"],
)
def test_lane_hash_and_pads_are_those_of_the_formula(own: HeParameters) -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    lanes = generator.integers(0, 1 << own.lane_bits, (3, own.values))
    lanes[1] = (1 << own.lane_bits) - 1  # the largest sum of products there is
    kappa = [word % TAG_PRIME for word in stream("he-kappa", CTX, words=TAGS * own.values)]
    for i, row in enumerate(LaneHash(KEY, CTX, own).of(lanes)):
        for k in range(TAGS):
            places = kappa[k * own.values : (k + 1) * own.values]
            assert int(row[k]) == sum(a * int(b) for a, b in zip(places, lanes[i], strict=True)) % TAG_PRIME
    pads = [stream("he-pad", CTX, node, words=3 * TAGS) for node in (A, B)]
    taken = TagPads(KEY, CTX, (A, B))
    got = [*taken.take(1).reshape(-1), *taken.take(2).reshape(-1)]
    assert [int(value) for value in got] == [
        (a % TAG_PRIME + b % TAG_PRIME) % TAG_PRIME for a, b in zip(*pads, strict=True)
    ]


def test_tags_are_long_enough_and_a_lane_cannot_hide_a_multiple_of_the_prime() -> None:
    assert is_prime(TAG_PRIME) and TAGS * np.log2(TAG_PRIME) >= 80
    for n in (3, 8, 32):
        assert 1 << parameters_for("bfv", n).lane_bits < TAG_PRIME


def test_every_single_lane_is_under_every_tag() -> None:
    own = parameters_for("bfv", 3)
    hashing = LaneHash(KEY, CTX, own)
    base = hashing.of(np.zeros((1, own.values), dtype=np.int64))
    assert not base.any()
    for start in range(0, own.values, 512):
        ones = np.eye(min(512, own.values - start), own.values, start, dtype=np.int64)
        assert hashing.of(ones).all()  # a zero coefficient would leave a lane free; it has chance 2^-31


def test_pads_differ_by_node_attempt_and_key() -> None:
    def pads(key: str = "group key", ctx: Digest = CTX, node: NodeId = A) -> tuple[int, ...]:
        return tuple(int(value) for value in TagPads(secret(key), ctx, (node,)).take(4).reshape(-1))

    assert len({pads(), pads(key="x"), pads(ctx=Digest(bytes(32))), pads(node=B)}) == 4
    assert len(set(pads())) == 12


def test_tags_inside_an_upload_are_padded() -> None:
    """Two nodes with the same integers carry different tags: nothing of the lanes shows in a tag."""
    cohort = EncryptedCohort("bfv", 3, dimension=100, draw="largest")
    size = cohort.parameters.ciphertext_words * 8
    slots = [cohort.cipher.decrypt_unchecked(cohort.uploads[node][0][:size]) for node in cohort.nodes]
    assert np.array_equal(slots[0][:40], slots[1][:40])
    assert not np.array_equal(slots[0][-TAGS:], slots[1][-TAGS:])
