"""Keys: X25519, HKDF, ratchet, commitments, context: independent recomputation, weak keys refused."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from fedvlm_secure import canonical
from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.secagg.cohort import Cohort, context
from fedvlm_secure.secagg.commitments import pair_commitment, self_commitment, share_leaf
from fedvlm_secure.secagg.pairs import check_public_key, pair_root, pair_seed, public_key, ratchet, share_key
from fedvlm_secure.secagg.sealing import open_sealed, seal, sealed_size
from fedvlm_secure.types import Digest, NodeId, Secret
from tests.support.entropy import entropy, secret
from tests.support.vectors import unhex, vector

KEYS, X25519 = vector("keys"), vector("rfc-7748")
A, B = NodeId("a"), NodeId("b")
CTX = Digest(unhex(KEYS["ctx"]))
ROOT = Secret(unhex(KEYS["pair_root"]))


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with hmac alone, RFC 5869 section 2.3."""
    out, block = b"", b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


@pytest.mark.parametrize("case", vector("rfc-5869"), ids=["case 1", "case 3"])
def test_hkdf_of_the_library_and_of_these_tests_is_that_of_rfc_5869(case: dict[str, str]) -> None:
    prk, info, okm = (unhex(case[name]) for name in ("prk", "info", "okm"))
    assert expand(prk, info, len(okm)) == okm
    assert HKDFExpand(algorithm=SHA256(), length=len(okm), info=info).derive(prk) == okm
    whole = HKDF(algorithm=SHA256(), length=len(okm), salt=unhex(case["salt"]), info=info)
    assert whole.derive(unhex(case["ikm"])) == okm


def test_public_key_is_that_of_rfc_7748() -> None:
    for name in ("alice", "bob"):
        assert public_key(Secret(unhex(X25519[f"{name}_private"]))).hex() == X25519[f"{name}_public"]


@pytest.mark.parametrize(("own", "peer"), [("alice", "bob"), ("bob", "alice")])
def test_pair_root_is_the_independently_derived_one_at_both_ends(own: str, peer: str) -> None:
    root = pair_root(
        Secret(unhex(X25519[f"{own}_private"])), unhex(X25519[f"{peer}_public"]), Digest(unhex(KEYS["roster_hash"]))
    )
    assert root.reveal().hex() == KEYS["pair_root"]


@pytest.mark.parametrize("fault", X25519["bad"])
def test_weak_or_malformed_key_is_refused(fault: str) -> None:
    with pytest.raises(PeerViolation) as caught:
        check_public_key(unhex(X25519["bad"][fault]))
    assert caught.value.code == "WEAK_KEY"
    with pytest.raises(PeerViolation):
        pair_root(secret("own"), unhex(X25519["bad"][fault]), Digest(bytes(32)))


def test_seeds_and_keys_are_the_independently_derived_ones() -> None:
    assert ratchet(ROOT).reveal().hex() == KEYS["ratchet"]
    assert pair_seed(ROOT, CTX, A, B).reveal().hex() == KEYS["pair_seed_a_b"]
    assert pair_seed(ROOT, CTX, B, A).reveal().hex() == KEYS["pair_seed_a_b"]
    assert share_key(ROOT, CTX, A, B).reveal().hex() == KEYS["share_key_a_to_b"]
    assert share_key(ROOT, CTX, B, A).reveal().hex() == KEYS["share_key_b_to_a"]
    info = canonical.encode(["fedvlm/v1/pair", CTX, "a", "b"])
    assert expand(ROOT.reveal(), info, 32).hex() == KEYS["pair_seed_a_b"]


def test_commitments_are_the_independently_hashed_ones() -> None:
    seed = Secret(bytes([3]) * 32)
    assert self_commitment(CTX, A, seed).hex() == KEYS["self_commitment"]
    assert pair_commitment(CTX, B, A, seed).hex() == KEYS["pair_commitment"]
    assert share_leaf(CTX, A, B, 2, bytes([4]) * 33).hex() == KEYS["share_leaf"]


ATTEMPT: dict[str, Any] = {
    "roster_hash": Digest(hashlib.sha256(b"roster").digest()),
    "round_number": 3,
    "attempt": 1,
    "state_hash": Digest(bytes([1]) * 32),
    "previous_result": Digest(bytes([2]) * 32),
    "protection": "masking",
    "lanes_per_word": 3,
    "cohort": Cohort((A, B, NodeId("c"), NodeId("d")), 1, 3, 3),
}


def test_context_is_the_independently_hashed_one() -> None:
    assert context(**ATTEMPT).hex() == KEYS["context_of_round_3_attempt_1"]


@pytest.mark.parametrize(
    "change",
    [
        {"roster_hash": Digest(bytes(32))},
        {"round_number": 4},
        {"attempt": 2},
        {"state_hash": Digest(bytes(32))},
        {"previous_result": Digest(bytes(32))},
        {"protection": "none"},
        {"lanes_per_word": 2},
        {"cohort": Cohort((A, B, NodeId("c")), 1, 3, 3)},
        {"cohort": Cohort((A, B, NodeId("c"), NodeId("d")), 0, 3, 3)},
        {"cohort": Cohort((A, B, NodeId("c"), NodeId("d")), 1, 3, 4)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_an_attempt_depends_on_is_in_its_context_and_so_in_every_key(change: dict[str, Any]) -> None:
    one, other = context(**ATTEMPT), context(**{**ATTEMPT, **change})
    assert one != other
    assert pair_seed(ROOT, one, A, B).reveal() != pair_seed(ROOT, other, A, B).reveal()
    assert share_key(ROOT, one, A, B).reveal() != share_key(ROOT, other, A, B).reveal()


@pytest.mark.parametrize(
    ("nodes", "colluding", "threshold", "min_survivors"),
    [
        ("ab", 0, 2, 3),
        ("abb", 0, 2, 3),
        ("bac", 0, 2, 3),
        ("abcd", 1, 2, 3),
        ("abcd", 0, 2, 3),
        ("abcd", 1, 4, 4),
        ("abcde", 1, 4, 3),
        ("abc", 0, 2, 2),
        ("abcd", 1, 3, 5),
        ("abc", 3, 4, 5),
    ],
)
def test_cohort_with_weaker_terms_cannot_be_made(
    nodes: str, colluding: int, threshold: int, min_survivors: int
) -> None:
    with pytest.raises(ValueError):
        Cohort(tuple(map(NodeId, nodes)), colluding, threshold, min_survivors)


def test_sealed_shares_open_for_their_holder_in_their_attempt_only() -> None:
    key, shares = secret("k"), tuple(Secret(bytes([i]) * 33) for i in range(4))
    blob = seal(key, shares, ctx=CTX, dealer=A, holder=B, entropy=entropy("nonce"))
    assert len(blob) == sealed_size(4)

    def opened(other: bytes = blob, with_key: Secret = key, **changes: Any) -> tuple[bytes, ...] | None:
        return open_sealed(with_key, other, **{"ctx": CTX, "dealer": A, "holder": B, "secrets": 4, **changes})

    assert opened() == tuple(share.reveal() for share in shares)
    for changes in ({"ctx": Digest(bytes(32))}, {"dealer": B}, {"holder": A}, {"secrets": 3}):
        assert opened(**changes) is None
    assert opened(with_key=secret("other")) is None
    for other in (blob[:-1], blob + b"\x00", b"", *(_flipped(blob, at) for at in (0, 11, 12, 80, len(blob) - 1))):
        assert opened(other) is None


def _flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def test_secret_does_not_show_itself() -> None:
    hidden = Secret(b"\x41" * 32)
    assert "A" * 4 not in f"{hidden!r} {hidden}"
    with pytest.raises(TypeError):
        _ = hidden == Secret(b"\x41" * 32)
    with pytest.raises(TypeError):
        hash(hidden)
