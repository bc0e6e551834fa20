"""The one encoding that is hashed and signed: hand-written bytes, and one byte string for each value."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure.canonical import decode, digest, digests, encode
from tests.support.vectors import unhex, vector

EXPECT = vector("canonical")


def value_of(kind: str, told: Any) -> Any:
    match kind:
        case "bytes":
            return unhex(told)
        case "int" | "float":
            return {"int": int, "float": float}[kind](told)
        case "list":
            return [value_of(*item) for item in told]
        case "map":
            return {key: value_of(*item) for key, item in told.items()}
        case _:
            return told


@pytest.mark.parametrize(("kind", "told", "encoded"), EXPECT["good"], ids=lambda part: str(part)[:24])
def test_value_has_its_hand_written_bytes_and_comes_back(kind: str, told: Any, encoded: str) -> None:
    value = value_of(kind, told)
    assert encode(value) == unhex(encoded)
    assert decode(unhex(encoded)) == value
    assert type(decode(unhex(encoded))) is type(value)


@pytest.mark.parametrize("fault", EXPECT["bad"])
def test_bytes_that_encode_no_value_are_refused(fault: str) -> None:
    with pytest.raises(ValueError):
        decode(unhex(EXPECT["bad"][fault]))


def test_digest_is_sha256_of_the_label_and_the_values() -> None:
    assert digest("test", 1, "a") == hashlib.sha256(unhex(EXPECT["digest"]["preimage"])).digest()


def test_minus_zero_and_zero_have_one_encoding() -> None:
    assert encode(-0.0) == encode(0.0)


@pytest.mark.parametrize(
    "value",
    [math.nan, 1 << 64, -(1 << 63) - 1, {1: "x"}, object(), {"a": math.nan}, "\ud800", int, np.int64(1)],
    ids=repr,
)
def test_value_without_an_encoding_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        encode(value)


def test_value_nested_too_deeply_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested]
    with pytest.raises(ValueError, match="deeply"):
        encode(nested)


@dataclass(frozen=True)
class Pair:
    left: int
    right: str


def test_record_is_a_map_by_field_name_and_a_view_counts_its_bytes() -> None:
    assert encode(Pair(1, "x")) == encode({"right": "x", "left": 1})
    assert encode(np.arange(3, dtype=np.uint64).data) == encode(np.arange(3, dtype=np.uint64).tobytes())


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.binary(max_size=20)
    | st.text(st.characters(codec="utf-8"), max_size=10)
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdeé", max_size=3), inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal with types: 1, 1.0 and True differ; -0.0 and 0.0 do not."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(VALUES)
def test_every_value_comes_back_from_its_bytes(value: Any) -> None:
    assert same(decode(encode(value)), value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VALUES, VALUES)
def test_equal_values_have_equal_bytes_and_different_ones_different(one: Any, other: Any) -> None:
    assert (encode(one) == encode(other)) == same(one, other)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VALUES, st.data())
def test_changed_bytes_are_refused_or_are_another_value(value: Any, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(raw))
    except ValueError:
        return
    assert not same(changed, value)
    assert encode(changed) == raw


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_canonical(raw: bytes) -> None:
    try:
        value = decode(raw)
    except ValueError:
        return
    assert encode(value) == raw


@given(st.lists(st.binary(max_size=9), max_size=4), st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=9))))
def test_digests_with_a_shared_head_are_those_of_each_by_itself(shared: list[bytes], tails: list[Any]) -> None:
    assert list(digests("label", shared, tails)) == [digest("label", *shared, *tail) for tail in tails]


def test_tails_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        list(digests("label", (), [(1,), (1, 2)]))
