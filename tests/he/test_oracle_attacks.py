"""What an aggregator may present as "the sum" to learn more than the sum: nothing comes out, and the key is burnt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fedvlm_secure.errors import UnexpectedMessage
from fedvlm_secure.he.cipher import Cipher
from fedvlm_secure.he.ciphertext_sum import sum_chunks
from fedvlm_secure.he.encryption import pack_slots
from fedvlm_secure.he.epoch_key import EpochKey, KeyBurnt, KeyState
from fedvlm_secure.he.parameters import TAG_PRIME, Scheme
from fedvlm_secure.he.tags import LaneHash, TagPads
from fedvlm_secure.types import NodeId, Words
from tests.he.encrypted_cohort import SECRETS, EncryptedCohort

Attack = Callable[[EncryptedCohort], list[bytes]]


@pytest.fixture(scope="module")
def cohorts() -> dict[str, EncryptedCohort]:
    return {scheme: EncryptedCohort(scheme, 4) for scheme in ("bfv", "ckks")}


def residues(chunks: Sequence[bytes]) -> Words:
    return np.frombuffer(b"".join(chunks), dtype="<u8").copy()


def as_chunks(words: Words) -> list[bytes]:
    return [words[at : at + 131_072].tobytes() for at in range(0, len(words), 131_072)]


def polynomials(cohort: EncryptedCohort, words: Words) -> Words:
    """View uint64 [ciphertexts, 2, N]."""
    return words.reshape(cohort.carriage.ciphertexts, 2, cohort.parameters.degree)


def single(cohort: EncryptedCohort) -> list[bytes]:
    return cohort.uploads[cohort.nodes[0]]


def subset(cohort: EncryptedCohort) -> list[bytes]:
    return cohort.encrypted_sum(cohort.nodes[:3])


def doubled(cohort: EncryptedCohort) -> list[bytes]:
    """One hospital twice in place of another: the same number of summands."""
    first, second, third, _ = cohort.nodes
    twice = {first: first, second: second, third: third, NodeId("again"): first}
    return list(sum_chunks(cohort.carriage, {name: cohort.uploads[node] for name, node in twice.items()}))


def forged(cohort: EncryptedCohort) -> list[bytes]:
    """c0 = 0, c1 = floor(Q / P): the bare decryption is the secret key itself."""
    words = residues(cohort.encrypted_sum())
    parts = polynomials(cohort, words)
    parts[:, 0] = 0
    parts[:, 1] = 0
    parts[:, 1, 0] = cohort.parameters.modulus // (cohort.parameters.plain_modulus or 1 << 40)
    return as_chunks(words)


def forged_in_one(cohort: EncryptedCohort) -> list[bytes]:
    """Only the last ciphertext is forged, the rest is genuine."""
    words = residues(cohort.encrypted_sum())
    parts = polynomials(cohort, words)
    parts[-1] = polynomials(cohort, residues(forged(cohort)))[-1]
    return as_chunks(words)


def transparent(cohort: EncryptedCohort) -> list[bytes]:
    words = residues(cohort.encrypted_sum())
    polynomials(cohort, words)[:, 1] = 0
    return as_chunks(words)


def zeros(cohort: EncryptedCohort) -> list[bytes]:
    return as_chunks(np.zeros(cohort.carriage.words, dtype=np.uint64))


def shifted(cohort: EncryptedCohort) -> list[bytes]:
    """A plaintext is added without any key: + 1 in every slot (bfv: the constant 1; ckks: a constant in all places)."""
    words, own = residues(cohort.encrypted_sum()), cohort.parameters
    parts = polynomials(cohort, words)
    delta = own.modulus // own.plain_modulus if own.plain_modulus else 1 << own.scale_bits
    where = parts[:, 0, :1] if own.plain_modulus else parts[:, 0]
    where[...] = (where + np.uint64(delta)) % np.uint64(own.modulus)
    return as_chunks(words)


def noisier(cohort: EncryptedCohort) -> list[bytes]:
    """A reaction attack: errors are added until a decryption fails; whether it does tells of the key."""
    words = residues(cohort.encrypted_sum())
    parts = polynomials(cohort, words)
    own = cohort.parameters
    parts[0, 0] = (parts[0, 0] + np.uint64(own.modulus // 3)) % np.uint64(own.modulus)
    return as_chunks(words)


def swapped(cohort: EncryptedCohort) -> list[bytes]:
    words = residues(cohort.encrypted_sum())
    parts = polynomials(cohort, words)
    parts[[0, 1]] = parts[[1, 0]]
    return as_chunks(words)


def truncated(cohort: EncryptedCohort) -> list[bytes]:
    return [chunk[:-8] for chunk in cohort.encrypted_sum()]


def missing(cohort: EncryptedCohort) -> list[bytes]:
    return []


def oversized(cohort: EncryptedCohort) -> list[bytes]:
    return [*cohort.encrypted_sum(), bytes(8)]


def no_residue(cohort: EncryptedCohort) -> list[bytes]:
    words = residues(cohort.encrypted_sum())
    words[5] = cohort.parameters.modulus
    return as_chunks(words)


def another_attempt(cohort: EncryptedCohort) -> list[bytes]:
    """The same hospitals' genuine sum of another round or attempt."""
    scheme: Scheme = cohort.parameters.scheme
    return EncryptedCohort(scheme, 4, name="another").encrypted_sum()


ATTACKS: list[Attack] = [
    single, subset, doubled, forged, forged_in_one, transparent, zeros, shifted, noisier, swapped, truncated, missing,
    oversized, no_residue, another_attempt,
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_attack_gets_one_fixed_answer_and_burns_the_key(
    attack: Attack, scheme: str, cohorts: dict[str, EncryptedCohort]
) -> None:
    cohort = cohorts[scheme]
    genuine, presented = cohort.encrypted_sum(), attack(cohort)
    assert b"".join(presented) != b"".join(genuine)
    key = cohort.key()
    key.spend(0)
    with pytest.raises(KeyBurnt) as caught:
        key.decrypt(0, presented, carriage=cohort.carriage, ctx=cohort.ctx, survivors=cohort.nodes)
    assert str(caught.value) == str(KeyBurnt())
    assert key.state == KeyState(0, False, True)
    with pytest.raises(KeyBurnt):
        key.spend(1)
    with pytest.raises(UnexpectedMessage):
        key.decrypt(1, genuine, carriage=cohort.carriage, ctx=cohort.ctx, survivors=cohort.nodes)
    restored = EpochKey(SECRETS, cohort.parameters, KeyState.from_bytes(key.state.to_bytes()))
    with pytest.raises(KeyBurnt):
        restored.spend(1)


def test_the_forged_ciphertext_is_a_real_attack_on_a_bare_decryption(cohorts: dict[str, EncryptedCohort]) -> None:
    cohort = cohorts["bfv"]
    own, cipher = cohort.parameters, cohort.cipher
    words = polynomials(cohort, residues(forged(cohort)))[0]
    cipher.decrypt_unchecked(words.tobytes())
    plain, top = cipher._plain, own.plain_modulus - 1
    leaked = [plain.data(i) for i in range(plain.coeff_count())]
    assert set(leaked) == {0, 1, top}  # a ternary polynomial of full degree: the secret key
    # and it is the key: c0 + c1 * s of a genuine upload is small after the message is taken off, which any
    # ciphertext of zero shows at once
    c0, c1 = (
        polynomials_of.astype(object)
        for polynomials_of in np.frombuffer(cipher.encrypt(np.zeros(own.slots, dtype=np.uint64)), dtype="<u8").reshape(
            2, own.degree
        )
    )
    secret = {i: (1 if value == 1 else -1) for i, value in enumerate(leaked) if value}
    for at in (0, 1, own.degree - 1):
        total = int(c0[at])
        for i, sign in secret.items():
            other = int(c1[(at - i) % own.degree])
            total += sign * (other if i <= at else -other)  # X^N = -1
        error = total % own.modulus
        assert min(error, own.modulus - error) <= 21


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_what_a_subset_would_give_is_the_hospitals_own_update(scheme: str, cohorts: dict[str, EncryptedCohort]) -> None:
    """The attacks are refused by the tags, not because they would fail anyway: with matching survivors each opens."""
    cohort = cohorts[scheme]
    one = cohort.nodes[:1]
    assert_array_equal(cohort.decrypt(cohort.encrypted_sum(one), one).words, cohort.plain[one[0]])


def test_one_round_is_decrypted_once_and_only_after_its_state_is_spent(cohorts: dict[str, EncryptedCohort]) -> None:
    cohort = cohorts["bfv"]
    genuine, key = cohort.encrypted_sum(), cohort.key()

    def decrypt(number: int) -> Words:
        opened = key.decrypt(number, genuine, carriage=cohort.carriage, ctx=cohort.ctx, survivors=cohort.nodes)
        return opened.words

    with pytest.raises(UnexpectedMessage):
        decrypt(0)
    assert key.spend(0) == KeyState(0, pending=True, burnt=False)
    with pytest.raises(UnexpectedMessage):
        key.spend(1)
    assert_array_equal(decrypt(0), cohort.ring_sum())
    assert key.state == KeyState(0, False, False)
    for again in (lambda: decrypt(0), lambda: key.spend(0)):
        with pytest.raises(UnexpectedMessage):
            again()
    key.spend(3)
    with pytest.raises(UnexpectedMessage):
        decrypt(4)  # another round than the one that was spent
    assert_array_equal(decrypt(3), cohort.ring_sum())


def test_a_crash_during_a_decryption_burns_the_key_of_this_node(cohorts: dict[str, EncryptedCohort]) -> None:
    cohort = cohorts["bfv"]
    journalled = cohort.key().spend(5).to_bytes()
    restarted = cohort.key(KeyState.from_bytes(journalled))
    assert restarted.state.burnt
    with pytest.raises(KeyBurnt):
        restarted.spend(6)
    settled = cohort.key(KeyState.from_bytes(KeyState(5).to_bytes()))
    assert settled.spend(6).pending  # a restart between rounds costs nothing


def test_a_source_that_breaks_off_leaves_the_key_burnt(cohorts: dict[str, EncryptedCohort]) -> None:
    cohort, key = cohorts["bfv"], cohorts["bfv"].key()

    def broken() -> object:
        yield cohort.encrypted_sum()[0]
        raise OSError("the connection is gone")

    key.spend(0)
    with pytest.raises(OSError, match="gone"):
        key.decrypt(0, broken(), carriage=cohort.carriage, ctx=cohort.ctx, survivors=cohort.nodes)  # type: ignore[arg-type]
    assert key.state.burnt


def dishonest_upload(cohort: EncryptedCohort, fault: str) -> list[bytes]:
    """A hospital that holds the key encrypts what `encrypt_words` would refuse, under tags that fit."""
    own, group_key = cohort.parameters, SECRETS.group_key
    node = cohort.nodes[0]
    hashing, pads = LaneHash(group_key, cohort.ctx, own), TagPads(group_key, cohort.ctx, (node,))
    limbs = cohort.carriage.split_scalars(cohort.plain[node])
    chunks = []
    for batch in cohort.carriage.batches():
        lanes = cohort.carriage.read(cohort.plain[node], limbs, batch)
        if fault == "a value beyond its bits":
            lanes[0, 5] = 1 << own.value_bits
        if fault == "a value where none rides":
            lanes[-1, -1] = 1
        slots = pack_slots(cohort.carriage, lanes, (hashing.of(lanes) + pads.take(len(batch))) % TAG_PRIME)
        if fault == "a slot beyond its lanes":
            slots[0, 5] += np.uint64(1 << own.lanes * own.lane_bits)
        if fault == "a tag beyond the sum's":
            slots[0, -1] += np.uint64(4 * TAG_PRIME)
        chunks.append(b"".join(cohort.cipher.encrypt(row) for row in slots))
    return chunks


@pytest.mark.parametrize(
    "fault",
    ["a value beyond its bits", "a value where none rides", "a slot beyond its lanes", "a tag beyond the sum's"],
)
def test_out_of_range_is_refused_even_under_fitting_tags(fault: str, cohorts: dict[str, EncryptedCohort]) -> None:
    cohort = cohorts["bfv"]
    alone = cohort.nodes[:1]
    honest = dishonest_upload(cohort, "none")
    assert_array_equal(cohort.decrypt(honest, alone).words, cohort.plain[alone[0]])
    with pytest.raises(KeyBurnt):
        cohort.decrypt(dishonest_upload(cohort, fault), alone)


@pytest.mark.parametrize("distance", [0.26, 0.5, float("nan"), float("inf")])
def test_a_ckks_slot_too_far_from_an_integer_burns_the_key(
    distance: float, cohorts: dict[str, EncryptedCohort], monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, bare = cohorts["ckks"], Cipher.decrypt_unchecked

    def drifting(cipher: Cipher, content: bytes) -> np.ndarray:
        slots = bare(cipher, content)
        slots = slots.copy()
        slots[17] += distance
        return slots

    genuine = cohort.encrypted_sum()
    monkeypatch.setattr(Cipher, "decrypt_unchecked", drifting)
    with pytest.raises(KeyBurnt):
        cohort.decrypt(genuine)
    distance_within = 0.2
    monkeypatch.setattr(Cipher, "decrypt_unchecked", lambda cipher, content: bare(cipher, content) + distance_within)
    assert_array_equal(cohort.decrypt(genuine).words, cohort.ring_sum())
