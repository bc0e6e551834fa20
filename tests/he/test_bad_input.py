"""Bytes from outside: private or foreign contexts, ciphertexts that are none, keys that are not the epoch's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tenseal as ts

from fedvlm_secure import canonical
from fedvlm_secure.errors import ModelError, PeerViolation
from fedvlm_secure.he import cipher as cipher_module
from fedvlm_secure.he.cipher import Cipher, NativeFile
from fedvlm_secure.he.ciphertext_sum import check_chunk, sum_chunks
from fedvlm_secure.he.epoch_key import EpochKey, KeyState
from fedvlm_secure.he.group_secrets import SEALED_BYTES, GroupSecrets, open_secrets, seal_secrets
from fedvlm_secure.he.parameters import Scheme
from fedvlm_secure.he.public_context import HeContext, parse_context
from fedvlm_secure.types import Digest, NodeId, Secret
from tests.he.encrypted_cohort import SECRETS, EncryptedCohort, cipher_for, parameters_for
from tests.support.entropy import entropy, secret

ROSTER = Digest(bytes([7]) * 32)
OWN = parameters_for("bfv", 8)
CONTEXT = SECRETS.context(OWN, ROSTER)


def test_context_is_read_back_and_its_digest_covers_every_field() -> None:
    assert parse_context(CONTEXT.to_bytes(), expected=OWN) == CONTEXT
    others = [
        SECRETS.context(parameters_for("bfv", 9), ROSTER),
        SECRETS.context(parameters_for("ckks", 8), ROSTER),
        SECRETS.context(OWN, Digest(bytes(32))),
        GroupSecrets(SECRETS.seed, secret("another")).context(OWN, ROSTER),
        GroupSecrets(Secret(bytes(64)), SECRETS.group_key).context(OWN, ROSTER),
    ]
    assert len({CONTEXT.digest, *(other.digest for other in others)}) == 6


def private_native_context() -> bytes:
    native = ts.context(ts.SCHEME_TYPE.BFV, 4096, OWN.plain_modulus, coeff_mod_bit_sizes=[54, 54])
    return bytes(native.serialize(save_secret_key=True))


def with_secret() -> bytes:
    """The public fields and the seed in one canonical map."""
    fields = {**dataclasses.asdict(CONTEXT), "seed": SECRETS.seed.reveal()}
    return canonical.encode(fields)


def of_the_same_length(change: dict[str, object]) -> bytes:
    fields = dataclasses.asdict(CONTEXT)
    fields["parameters"].update(change)
    return canonical.encode(fields)


@pytest.mark.parametrize(
    "raw",
    [
        private_native_context(),
        with_secret(),
        b"",
        CONTEXT.to_bytes()[:-1],
        CONTEXT.to_bytes() + b"\x00",
        bytes(len(CONTEXT.to_bytes())),
        b"\xff" * len(CONTEXT.to_bytes()),
        of_the_same_length({"modulus": (1 << 60) - 1}),
        of_the_same_length({"degree": 2048}),
        of_the_same_length({"nodes": 9}),
        of_the_same_length({"lanes": 1}),
        CONTEXT.to_bytes() * 100_000,
    ],
    ids=[
        "private",
        "with a seed",
        "empty",
        "short",
        "long",
        "zeros",
        "ones",
        "modulus",
        "degree",
        "nodes",
        "lanes",
        "huge",
    ],
)
def test_context_that_is_private_foreign_or_of_another_size_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerViolation) as caught:
        parse_context(raw, expected=OWN)
    assert caught.value.code == "HE_CONTEXT"
    assert ("bytes" in caught.value.cause) == (len(raw) != len(CONTEXT.to_bytes()))  # the length is judged first
    assert SECRETS.seed.reveal().hex()[:8] not in str(caught.value)


@pytest.mark.parametrize("at", [*range(0, len(CONTEXT.to_bytes()) - 280, 7), len(CONTEXT.to_bytes()) - 1])
def test_no_altered_byte_of_a_context_passes_for_the_same_context(at: int) -> None:
    raw = bytearray(CONTEXT.to_bytes())
    raw[at] ^= 0x41
    try:
        read = parse_context(bytes(raw), expected=OWN)
    except PeerViolation:
        return
    assert read.parameters == OWN  # only the commitment may differ, and then the digest that all sign does
    assert read.digest != CONTEXT.digest


@pytest.fixture(scope="module")
def cohort() -> EncryptedCohort:
    return EncryptedCohort("bfv", 3, dimension=140_000)


def foreign(cohort: EncryptedCohort) -> bytes:
    """Another library's idea of a ciphertext, cut to length."""
    native = ts.context(ts.SCHEME_TYPE.BFV, 4096, 1032193, coeff_mod_bit_sizes=[54, 54])
    raw = bytes(ts.bfv_vector(native, [1, 2, 3]).serialize())
    return (raw * (len(cohort.uploads[cohort.nodes[0]][0]) // len(raw) + 1))[: 1 << 20]


@pytest.mark.parametrize(
    ("index", "content"),
    [
        (0, b""),
        (0, bytes((1 << 20) - 1)),
        (0, bytes((1 << 20) - 65536)),
        (0, bytes((1 << 20) + 8)),
        (0, b"\xff" * (1 << 20)),
        (1, bytes(1 << 20)),
        (2, bytes(1 << 20)),
        (-1, bytes(1 << 20)),
    ],
    ids=["empty", "ragged", "short", "long", "garbage", "last chunk too long", "beyond the last", "before the first"],
)
def test_chunk_of_another_size_or_without_residues_is_refused(
    cohort: EncryptedCohort, index: int, content: bytes
) -> None:
    if index == 2:
        assert len(cohort.uploads[cohort.nodes[0]]) == 2
    with pytest.raises(PeerViolation) as caught:
        check_chunk(cohort.carriage, index, content, owner="h-00")
    assert caught.value.code == "BAD_CIPHERTEXT"
    assert "h-00" in caught.value.cause


def test_foreign_and_random_bytes_are_refused(cohort: EncryptedCohort) -> None:
    random = entropy("garbage").bytes(1 << 20)
    for content in (foreign(cohort), random):
        with pytest.raises(PeerViolation, match="no residue"):
            check_chunk(cohort.carriage, 0, content, owner="h-00")


@pytest.mark.parametrize("fault", ["missing", "extra", "truncated"])
def test_adding_names_the_node_whose_upload_is_wrong(cohort: EncryptedCohort, fault: str) -> None:
    uploads = dict(cohort.uploads)
    bad = cohort.nodes[1]
    chunks = uploads[bad]
    uploads[bad] = {"missing": chunks[:1], "extra": [*chunks, chunks[0]], "truncated": [chunks[0], chunks[1][:-8]]}[
        fault
    ]
    with pytest.raises(PeerViolation, match="BAD_CIPHERTEXT") as caught:
        list(sum_chunks(cohort.carriage, uploads))
    assert bad in caught.value.cause


def test_more_uploads_than_the_lanes_hold_are_not_added(cohort: EncryptedCohort) -> None:
    one = cohort.uploads[cohort.nodes[0]]
    with pytest.raises(ValueError):
        list(sum_chunks(cohort.carriage, {NodeId(f"n{i}"): one for i in range(4)}))
    with pytest.raises(ValueError):
        list(sum_chunks(cohort.carriage, {}))


@pytest.mark.parametrize("scheme", ["bfv", "ckks"])
def test_adding_residues_is_the_librarys_own_addition(scheme: Scheme) -> None:
    cohort = EncryptedCohort(scheme, 3, dimension=100)
    cipher = cipher_for(cohort.parameters)
    seal, native = cipher._seal, cipher._native
    evaluator, total = seal.Evaluator(native), None
    for chunks in cohort.uploads.values():
        file, loaded = NativeFile(), seal.Ciphertext()
        file.write(cipher._frame, chunks[0])
        loaded.load(native, file.path)
        if total is None:
            total = loaded
        else:
            evaluator.add_inplace(total, loaded)
    cipher._cipher = total
    size = cohort.parameters.ciphertext_words * 8
    assert cipher._stored()[-size:] == cohort.encrypted_sum()[0]
    cipher_for.cache_clear()


def sealed(**changes: object) -> bytes:
    terms = {
        "root": secret("root"), "context": CONTEXT, "roster_hash": ROSTER, "maker": NodeId("a"), "holder": NodeId("b"),
    }  # fmt: skip
    return seal_secrets(SECRETS, **{**terms, **changes}, entropy=entropy("nonce"))  # type: ignore[arg-type]


def opened(raw: bytes) -> GroupSecrets:
    return open_secrets(
        raw, root=secret("root"), context=CONTEXT, roster_hash=ROSTER, maker=NodeId("a"), holder=NodeId("b")
    )


def test_sealed_key_opens_at_its_holder_only() -> None:
    raw = sealed()
    assert len(raw) == SEALED_BYTES
    got = opened(raw)
    assert got.seed.reveal() == SECRETS.seed.reveal() and got.group_key.reveal() == SECRETS.group_key.reveal()
    assert SECRETS.seed.reveal()[:8] not in raw and SECRETS.group_key.reveal()[:8] not in raw
    wrong = [
        sealed(root=secret("other")),
        sealed(maker=NodeId("c")),
        sealed(holder=NodeId("c")),
        sealed(roster_hash=Digest(bytes(32))),
        sealed(context=HeContext(OWN, Digest(bytes(32)))),
        raw[:-1],
        raw + b"\x00",
        b"",
        *(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in (0, 12, 60, SEALED_BYTES - 1)),
    ]
    for other in wrong:
        with pytest.raises(PeerViolation) as caught:
            opened(other)
        assert caught.value.code == "HE_KEY_REFUSED"


def test_maker_that_seals_another_key_than_all_signed_is_named() -> None:
    other = GroupSecrets.draw(entropy("other secrets"))
    raw = seal_secrets(
        other,
        root=secret("root"),
        context=CONTEXT,
        roster_hash=ROSTER,
        maker=NodeId("a"),
        holder=NodeId("b"),
        entropy=entropy("nonce"),
    )
    with pytest.raises(PeerViolation, match="HE_KEY_REFUSED") as caught:
        opened(raw)
    assert "that a sealed to b" in caught.value.cause


def test_seed_alone_makes_the_key_and_no_two_encryptions_share_their_randomness() -> None:
    slots = np.arange(OWN.slots, dtype=np.uint64)
    one, same, other = Cipher(OWN, SECRETS.seed), Cipher(OWN, SECRETS.seed), Cipher(OWN, Secret(bytes(64)))
    first, second = one.encrypt(slots), one.encrypt(slots)
    half = len(first) // 2
    assert first[:half] != second[:half] and first[half:] != second[half:]
    assert np.array_equal(same.decrypt_unchecked(first), slots)
    assert not np.array_equal(other.decrypt_unchecked(first), slots)


def test_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ModelError) as caught:
        Cipher(OWN, SECRETS.seed)
    assert caught.value.code == "HE_LIBRARY_MISSING" and "zstandard" in caught.value.cause
    key = EpochKey(SECRETS, OWN, KeyState())
    with pytest.raises(ModelError):
        key.spend(0)
    assert key.state == KeyState()  # nothing is spent on it


def test_library_that_writes_another_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cipher_module, "_MAGIC", 0x1234)
    with pytest.raises(ModelError, match="HE_LIBRARY"):
        Cipher(OWN, SECRETS.seed)


def test_public_half_loads_no_library_and_no_secret_code() -> None:
    code = (
        "import sys, fedvlm_secure.he.ciphertext_sum, fedvlm_secure.he.public_context;"
        "print(*[m for m in sys.modules if m.startswith(('tenseal', 'zstandard', 'fedvlm_secure.he'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {"carriage", "ciphertext_sum", "parameters", "public_context"}
    assert set(ran.stdout.split()) == {"fedvlm_secure.he", *(f"fedvlm_secure.he.{name}" for name in names)}
