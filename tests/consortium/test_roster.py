"""The pinned roster: one text, strict reading, fingerprints that people can compare."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from fedvlm_secure.errors import IdentityError, PolicyError
from fedvlm_secure.policy import identity
from fedvlm_secure.policy.roster import (
    AggregatorKeys,
    Member,
    Roster,
    compare,
    format_roster,
    load_roster,
    parse_roster,
)
from fedvlm_secure.types import Digest, node_id


def key(number: int) -> bytes:
    """A real Ed25519 public key, the same each time."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(bytes([number])).digest())
    return identity.identity_bytes(private.public_key())


def pin(number: int) -> Digest:
    return Digest(hashlib.sha256(b"pin" + bytes([number])).digest())


def roster(*names: str) -> Roster:
    members = tuple(Member(node_id(name), key(at + 1), pin(at + 1)) for at, name in enumerate(names))
    return Roster("trial", AggregatorKeys(key(0), pin(0), "agg.example.org:7443"), members)


def test_what_is_written_is_read_back_and_written_the_same() -> None:
    written = format_roster(roster("hospital-a", "hospital-b"))
    read = parse_roster(written, "roster.toml")
    assert read == roster("hospital-a", "hospital-b")
    assert format_roster(read) == written


def test_quotes_and_backslashes_in_a_name_survive() -> None:
    named = Roster('the "north\\south" group', AggregatorKeys(key(0), pin(0)), ())
    assert parse_roster(format_roster(named), "r").consortium == 'the "north\\south" group'


def test_the_order_of_tables_does_not_change_the_digest() -> None:
    text = format_roster(roster("hospital-a", "hospital-b")).decode()
    head, first, second = text.split("[[nodes]]")
    swapped = "[[nodes]]".join([head, second, first]).encode()
    assert parse_roster(swapped, "r").digest == roster("hospital-a", "hospital-b").digest


def test_every_key_and_name_changes_the_digest_but_the_address_does_not() -> None:
    plain = roster("hospital-a", "hospital-b")
    a, b = plain.members
    others = [
        Roster("other", plain.aggregator, plain.members),
        Roster("trial", AggregatorKeys(key(9), pin(0)), plain.members),
        Roster("trial", AggregatorKeys(key(0), pin(9)), plain.members),
        Roster("trial", plain.aggregator, (a,)),
        Roster("trial", plain.aggregator, (a, Member(node_id("hospital-c"), b.identity, b.spki_sha256))),
        Roster("trial", plain.aggregator, (a, Member(b.node, key(9), b.spki_sha256))),
        Roster("trial", plain.aggregator, (a, Member(b.node, b.identity, pin(9)))),
    ]
    assert len({other.digest for other in others} | {plain.digest}) == len(others) + 1
    moved = Roster("trial", AggregatorKeys(key(0), pin(0), "elsewhere:1"), plain.members)
    assert moved.digest == plain.digest


def spoil(old: str, new: str) -> bytes:
    text = format_roster(roster("hospital-a", "hospital-b")).decode()
    assert old in text
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("hospital-b", "hospital-a", "an id occurs twice|a id occurs twice"),
        (identity.encode_identity(key(2)), identity.encode_identity(key(1)), "an identity occurs twice"),
        (identity.encode_identity(key(2)), identity.encode_identity(key(0)), "an identity occurs twice"),
        (pin(2).hex(), pin(1).hex(), "a TLS key occurs twice"),
        (pin(2).hex(), pin(0).hex(), "a TLS key occurs twice"),
        ("hospital-a", "../etc", "node id must match"),
        ("hospital-a", "Hospital", "node id must match"),
        ("id =", "idd =", "idd is not a roster field; did you mean nodes[0].id?"),
        ("consortium = ", "consortum = ", "did you mean consortium?"),
        ("version = 1", "version = 2", "version must be 1"),
        ("version = 1", "version = true", "version must be 1"),
        ("version = 1\n", "", "version is missing"),
        (pin(1).hex(), pin(1).hex().upper(), "lower-case hex"),
        (pin(1).hex(), "00", "lower-case hex"),
        (identity.encode_identity(key(1)), "AAAA", "has 32 bytes, got 3"),
        (identity.encode_identity(key(1)), identity.encode_identity(b"\1" + bytes(31)), "small order"),
        (identity.encode_identity(key(1)), "!!", "base64"),
        ("[[nodes]]", "[nodes]", ""),
        ("version = 1", "version = ", ""),
    ],
)
def test_a_spoiled_roster_is_one_error_that_names_the_entry(old: str, new: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_roster(spoil(old, new), "roster.toml")
    assert caught.value.code == "ROSTER_INVALID"
    assert caught.value.cause.startswith("roster.toml: ")
    assert any(word in caught.value.cause for word in words.split("|"))


def test_a_missing_roster_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read the roster"):
        load_roster(tmp_path / "roster.toml")


def test_a_fingerprint_is_eight_groups_of_five_digits_of_the_digest() -> None:
    digest = Digest(bytes.fromhex("00000001000186a0000186a1ffffffff" + "00" * 16))
    assert identity.fingerprint(digest) == "00001 00000 00001 67295 00000 00000 00000 00000"  # modulo 100,000 by hand
    assert re.fullmatch(r"(\d{5} ){7}\d{5}", roster("hospital-a").fingerprint)


def test_replaced_and_removed_keys_are_told_from_additions() -> None:
    old = roster("hospital-a", "hospital-b")
    grown = roster("hospital-a", "hospital-b", "hospital-c")
    assert compare(old, grown).only_adds
    assert compare(old, grown).added == (node_id("hospital-c"),)
    assert compare(grown, old).removed == (node_id("hospital-c"),)
    assert not compare(grown, old).only_adds
    a, b = old.members
    swapped = Roster("trial", old.aggregator, (a, Member(b.node, key(9), b.spki_sha256)))
    assert compare(old, swapped).replaced == ("hospital-b",)
    other = Roster("trial", AggregatorKeys(key(9), pin(0)), old.members)
    assert compare(old, other).replaced == ("the aggregator",)


P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P


def add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    """The Edwards addition law of RFC 8032, section 5.1.4, in affine coordinates."""
    product = D * p[0] * q[0] * p[1] * q[1] % P
    x = (p[0] * q[1] + q[0] * p[1]) * pow(1 + product, P - 2, P) % P
    return x, (p[1] * q[1] + p[0] * q[0]) * pow(1 - product, P - 2, P) % P


def decode(raw: bytes) -> tuple[int, int]:
    """RFC 8032, section 5.1.3, non-canonical y allowed."""
    value = int.from_bytes(raw, "little")
    sign, y = value >> 255, (value & ((1 << 255) - 1)) % P
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert (x * x - square) % P == 0, "not on the curve"
    return (P - x if x & 1 != sign else x) % P, y


def test_every_refused_identity_is_a_point_of_order_at_most_eight() -> None:
    ys = sorted(identity._SMALL_ORDER_Y)
    points = set()
    for y in ys:
        for sign in (0, 1):
            raw = (y | sign << 255).to_bytes(32, "little")
            point = decode(raw)
            points.add(point)
            eight = point
            for _ in range(3):
                eight = add(eight, eight)
            assert eight == (0, 1)
            with pytest.raises(IdentityError, match="small order"):
                identity.identity_key(raw)
    assert len(points) == 8  # all of them: the curve's cofactor is 8
