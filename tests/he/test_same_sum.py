"""Encrypted, added and decrypted is bit for bit the ring's own sum; and each node can check it without a ciphertext."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.he.ciphertext_sum import sum_chunks
from fedvlm_secure.he.parameters import TAG_PRIME, Scheme
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.he.verification import DecryptedSum, make_proof
from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.ring.vector import check_words
from fedvlm_secure.types import Words
from tests.he.encrypted_cohort import SECRETS, Draw, EncryptedCohort

SIZES = (3, 4, 5, 7, 8, 9, 13, 16, 17, 24, 31, 32)
COHORTS = [("bfv", SIZES[i % len(SIZES)], i) for i in range(108)] + [
    ("ckks", SIZES[i % len(SIZES)], i) for i in range(36)
]


@pytest.mark.parametrize(("scheme", "n", "seed"), COHORTS)
def test_sum_of_a_random_cohort_is_the_masked_sum_to_the_last_bit(scheme: Scheme, n: int, seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(10_000 + seed))
    cohort = EncryptedCohort(scheme, n, dimension=int(generator.integers(1, 9000)), seed=seed)
    kept = tuple(node for node in cohort.nodes if generator.random() > 0.2) or cohort.nodes[:1]
    opened = cohort.decrypt(cohort.encrypted_sum(kept), kept)
    assert_array_equal(opened.words, cohort.ring_sum(kept))
    cohort.verify(opened, kept)


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
@pytest.mark.parametrize("n", [3, 8, 32])
@pytest.mark.parametrize("draw", ["largest", "smallest", "edges"])
def test_all_nodes_at_the_edge_of_their_values_stay_exact(scheme: Scheme, n: int, draw: Draw) -> None:
    cohort = EncryptedCohort(scheme, n, dimension=12_000, draw=draw)
    opened = cohort.decrypt(cohort.encrypted_sum())
    assert_array_equal(opened.words, cohort.ring_sum())
    integers, scalars = cohort.carriage.format.unpack_sum(opened.words, n)
    assert scalars["weight"] == n << 16
    if draw == "largest":
        assert int(integers.min()) == n * cohort.carriage.format.lanes.largest
    cohort.verify(opened)


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_more_than_32_nodes_ride_with_wider_values(scheme: Scheme) -> None:
    cohort = EncryptedCohort(scheme, 40, dimension=5000, draw="edges")
    assert cohort.carriage.format.lanes.value_bits == 22
    assert_array_equal(cohort.decrypt(cohort.encrypted_sum()).words, cohort.ring_sum())


def around(values: int) -> list[int]:
    return [values - 1, values, values + 1]


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_every_border_between_ciphertexts_lanes_and_scalars_is_crossed_in_order(scheme: Scheme) -> None:
    per = EncryptedCohort(scheme, 3, dimension=1).parameters.values
    for dimension in [1, 2, 3, *around(per - 6), *around(per), *around(2 * per - 3)]:
        cohort = EncryptedCohort(scheme, 3, dimension=dimension)
        opened = cohort.decrypt(cohort.encrypted_sum())
        assert_array_equal(opened.words, cohort.ring_sum())
        cohort.verify(opened)


def test_an_upload_travels_in_whole_chunks_made_one_at_a_time() -> None:
    cohort = EncryptedCohort("bfv", 3, dimension=140_000)
    chunks = cohort.uploads[cohort.nodes[0]]
    assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK_WORDS * 8] * (len(chunks) - 1)
    assert sum(map(len, chunks)) == cohort.carriage.words * 8
    read: list[int] = []

    def counted(node: str) -> object:
        for index, chunk in enumerate(cohort.uploads[node]):  # type: ignore[index]
            read.append(index)
            yield chunk

    stream = sum_chunks(cohort.carriage, {node: counted(node) for node in cohort.nodes})  # type: ignore[misc]
    next(stream)
    assert read == [0, 0, 0]


def checked(cohort: EncryptedCohort, words: Words) -> Words:
    """The words with check words that fit them."""
    payload = cohort.carriage.format.payload_words
    words[payload:] = check_words(words[:payload])
    return words


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 7, 8, 16_381, 16_384, 16_385, 3 * 16_384 + 1])
def test_every_bit_of_a_sum_that_carries_no_coordinate_is_looked_at(dimension: int) -> None:
    cohort = EncryptedCohort("bfv", 3, dimension=dimension)
    carriage, fmt = cohort.carriage, cohort.carriage.format
    words = cohort.decrypt(cohort.encrypted_sum()).words
    limbs = sum((carriage.split_scalars(plain) for plain in cohort.plain.values()), start=np.zeros(6, dtype=np.int64))
    assert carriage.follows(words, limbs)
    bits, step = fmt.lanes.lane_bits, max(1, fmt.lane_words // 5)
    for word in {*range(0, fmt.lane_words, step), fmt.lane_words - 1}:
        for bit in range(64):
            changed = words.copy()
            changed[word] ^= np.uint64(1 << bit)
            carries = bit // bits < fmt.lanes.per_word and bit // bits * fmt.lane_words + word < dimension
            assert carriage.follows(checked(cohort, changed), limbs) == carries


@pytest.mark.parametrize("lie", ["value", "scalar", "check word", "unused bits", "tag", "limb", "short"])
def test_a_published_sum_that_was_altered_on_its_way_is_refused(lie: str) -> None:
    cohort = EncryptedCohort("bfv", 3, dimension=9002)  # 9002 = 3 * 3000 + 2: the last lane is one short
    fmt, opened = cohort.carriage.format, cohort.decrypt(cohort.encrypted_sum())
    words, proof = opened.words.copy(), opened.proof.copy()
    if lie == "value":
        words[7] += np.uint64(1)
    elif lie == "scalar":
        words[fmt.lane_words] += np.uint64(1)
    elif lie == "check word":
        words[-1] += np.uint64(1)
    elif lie == "unused bits":
        words[fmt.lane_words - 1] += np.uint64(1 << 42)
    elif lie == "tag":
        proof[0] ^= np.uint64(1)
    elif lie == "limb":
        proof[-1] ^= np.uint64(1 << 40)
    else:
        words = words[:-1]
    if lie not in ("check word", "short"):
        checked(cohort, words)  # a liar makes the public check words fit
    cohort.verify(opened)
    with pytest.raises(PeerViolation, match="HE_SUM_FALSE") as caught:
        cohort.verify(DecryptedSum(words, proof))
    assert (lie == "limb") == ("limb" in caught.value.cause)


@pytest.mark.parametrize(("lane", "refused"), [(3 * 65535, False), (3 * 65535 + 1, True)])
def test_a_holder_of_the_group_key_can_lie_within_the_range_only(lane: int, refused: bool) -> None:
    """Tags are symmetric: what `verify_sum` says it does not show is true, and the range holds even so."""
    cohort = EncryptedCohort("bfv", 3, dimension=100)
    opened = cohort.decrypt(cohort.encrypted_sum())
    words, carriage = opened.words.copy(), cohort.carriage
    words[0] += np.uint64(lane - int(words[0] & np.uint64((1 << 21) - 1)))
    checked(cohort, words)
    batch = range(1)
    limbs = sum((carriage.split_scalars(plain) for plain in cohort.plain.values()), start=np.zeros(6, dtype=np.int64))
    hashing = LaneHash(SECRETS.group_key, cohort.ctx, cohort.parameters)
    pads = TagPads(SECRETS.group_key, cohort.ctx, cohort.nodes)
    tags = (hashing.of(carriage.read(words, limbs, batch)) + pads.take(1)) % TAG_PRIME
    lie = DecryptedSum(words, make_proof(tags, limbs, group_key=SECRETS.group_key, ctx=cohort.ctx))
    if refused:
        with pytest.raises(PeerViolation, match="HE_SUM_FALSE"):
            cohort.verify(lie)
    else:
        cohort.verify(lie)


def test_a_sum_over_other_survivors_or_of_another_attempt_does_not_verify() -> None:
    cohort = EncryptedCohort("bfv", 4)
    kept = cohort.nodes[:3]
    opened = cohort.decrypt(cohort.encrypted_sum(kept), kept)
    cohort.verify(opened, kept)
    for other in (cohort.nodes, cohort.nodes[1:], kept[:2]):
        with pytest.raises(PeerViolation, match="HE_SUM_FALSE"):
            cohort.verify(opened, other)
    cohort.ctx = type(cohort.ctx)(bytes(32))
    with pytest.raises(PeerViolation, match="HE_SUM_FALSE"):
        cohort.verify(opened, kept)


def test_the_limbs_of_a_scalar_are_not_readable_in_the_proof() -> None:
    cohort = EncryptedCohort("bfv", 3, dimension=100)
    proof = cohort.decrypt(cohort.encrypted_sum()).proof
    covered = proof[cohort.carriage.ciphertexts * 3 :]
    assert len(covered) == 6
    assert int(covered.min()) > 1 << 40  # plain limbs lie below 2^18


def test_noisy_or_summed_words_are_not_encrypted() -> None:
    cohort = EncryptedCohort("bfv", 3, dimension=100)
    cohort.plain[cohort.nodes[0]] = cohort.ring_sum()
    with pytest.raises(ValueError, match="outside its lane"):
        cohort.encrypt(cohort.nodes[0])
