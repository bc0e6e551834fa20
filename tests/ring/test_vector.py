"""Lanes, packing, check words: exact at the bounds, refused beyond them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.ring.lanes import FOUR_LANES, THREE_LANES, TWO_LANES, LaneFormat, lane_format
from fedvlm_secure.ring.vector import SCALAR_LIMIT, VectorFormat, check_words
from tests.support.entropy import words
from tests.support.vectors import vector

FORMATS = [TWO_LANES, THREE_LANES, FOUR_LANES]
ids = [f"{lanes.per_word} lanes" for lanes in FORMATS]


def test_packed_words_are_the_hand_computed_ones() -> None:
    expect = vector("ring")
    packing = VectorFormat(4, THREE_LANES, ("weight",))
    packed = packing.pack(np.array(expect["integers"], dtype=np.int64), expect["scalars"])
    assert [str(word) for word in packed] == expect["words"]
    total = packed + packed + packed
    assert [str(word) for word in total] == expect["sum_of_three"]["words"]
    integers, scalars = packing.unpack_sum(total, 3)
    assert (integers.tolist(), scalars) == (expect["sum_of_three"]["integers"], {"weight": 21})


@pytest.mark.parametrize("lanes", FORMATS, ids=ids)
@pytest.mark.parametrize("sign", [1, -1])
def test_sum_is_exact_when_every_node_of_the_largest_cohort_sends_the_largest_value(
    lanes: LaneFormat, sign: int
) -> None:
    packing = VectorFormat(10, lanes, ("count",))
    extreme = np.full(10, lanes.largest if sign > 0 else -lanes.offset, dtype=np.int64)
    total = np.zeros(packing.words, dtype=np.uint64)
    for _ in range(lanes.max_nodes):
        total += packing.pack(extreme, {"count": SCALAR_LIMIT - 1})
    integers, scalars = packing.unpack_sum(total, lanes.max_nodes)
    assert np.array_equal(integers, lanes.max_nodes * extreme)
    assert scalars == {"count": lanes.max_nodes * (SCALAR_LIMIT - 1)}


@pytest.mark.parametrize("lanes", FORMATS, ids=ids)
def test_one_node_more_than_the_lanes_hold_would_overflow_and_is_refused(lanes: LaneFormat) -> None:
    top = (1 << lanes.value_bits) - 1
    assert lanes.max_nodes * top < 1 << lanes.lane_bits <= (lanes.max_nodes + 1) * top + 1
    assert lane_format(lanes.per_word, lanes.max_nodes) is lanes
    with pytest.raises(PolicyError) as caught:
        lane_format(lanes.per_word, lanes.max_nodes + 1)
    assert caught.value.code == "RING_HEADROOM"
    packing = VectorFormat(3, lanes)
    with pytest.raises(ValueError, match="do not fit the lanes"):
        packing.unpack_sum(np.zeros(packing.words, dtype=np.uint64), lanes.max_nodes + 1)


def test_auto_takes_three_lanes_to_32_nodes_and_two_beyond() -> None:
    assert lane_format("auto", 32) is THREE_LANES
    assert lane_format("auto", 33) is TWO_LANES


@pytest.mark.parametrize("lanes", FORMATS, ids=ids)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data())
def test_sum_of_any_vectors_is_exact(lanes: LaneFormat, data: st.DataObject) -> None:
    dimension, nodes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, lanes.max_nodes))
    packing = VectorFormat(dimension, lanes, ("a", "b"))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vectors = rng.integers(-lanes.offset, lanes.offset, size=(min(nodes, 8), dimension))
    scalars = [{"a": int(x), "b": i} for i, x in enumerate(rng.integers(0, SCALAR_LIMIT, size=len(vectors)))]
    total = np.zeros(packing.words, dtype=np.uint64)
    for vector_of_node, row in zip(vectors, scalars, strict=True):
        total += packing.pack(vector_of_node, row)
    integers, sums = packing.unpack_sum(total, len(vectors))
    assert np.array_equal(integers, vectors.sum(axis=0))
    assert sums == {"a": sum(row["a"] for row in scalars), "b": sum(row["b"] for row in scalars)}


def test_value_below_its_lane_borrows_and_the_borrow_cancels_in_the_sum() -> None:
    """Noise may take a node's value below -offset: addition, not `|`, keeps the sum exact."""
    packing = VectorFormat(3, THREE_LANES)
    low = np.array([-THREE_LANES.offset - 5, -THREE_LANES.offset - 1, 0], dtype=np.int64)
    high = np.array([100, 100, 100], dtype=np.int64)
    total = packing.pack(low, {}) + packing.pack(high, {})
    assert np.array_equal(packing.unpack_sum(total, 2)[0], low + high)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.data())
def test_check_word_shows_any_single_changed_word(count: int, data: st.DataObject) -> None:
    packing = VectorFormat(count, TWO_LANES, ("s",))
    total = packing.pack(np.arange(count, dtype=np.int64), {"s": 5})
    at = data.draw(st.integers(0, packing.words - 1))
    total[at] += np.uint64(data.draw(st.integers(1, (1 << 64) - 1)))
    assert packing.faulty_chunks(total) == [0]
    with pytest.raises(ValueError, match="check word of chunk 0"):
        packing.unpack_sum(total, 1)


def test_check_words_name_the_chunk_and_are_linear() -> None:
    one, other = words("one", 2 * CHUNK_WORDS + 5), words("other", 2 * CHUNK_WORDS + 5)
    assert np.array_equal(check_words(one) + check_words(other), check_words(one + other))
    packing = VectorFormat(4 * CHUNK_WORDS + 10, TWO_LANES)
    total = packing.pack(np.zeros(packing.dimension, dtype=np.int64), {})
    assert packing.check_words == 3
    total[CHUNK_WORDS + 1] ^= np.uint64(1 << 63)
    assert packing.faulty_chunks(total) == [1]


def test_upload_of_three_lanes_is_two_thirds_of_plain_float32() -> None:
    packing = VectorFormat(1_000_000, THREE_LANES, ("weight", "loss_sum", "loss_count"))
    assert packing.words * 8 / (4 * packing.dimension) < 0.67


@pytest.mark.parametrize(
    ("integers", "scalars"),
    [
        (np.zeros(3, dtype=np.int64), {"s": 0}),
        (np.zeros(5, dtype=np.int64), {"s": 0}),
        (np.zeros(4, dtype=np.int32), {"s": 0}),
        (np.zeros((2, 2), dtype=np.int64), {"s": 0}),
        (np.zeros(4, dtype=np.int64), {}),
        (np.zeros(4, dtype=np.int64), {"s": 0, "t": 0}),
        (np.zeros(4, dtype=np.int64), {"s": -1}),
        (np.zeros(4, dtype=np.int64), {"s": SCALAR_LIMIT}),
    ],
    ids=["short", "long", "dtype", "shape", "scalar missing", "scalar unknown", "scalar negative", "scalar too large"],
)
def test_what_does_not_fit_the_format_is_not_packed(integers: np.ndarray, scalars: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        VectorFormat(4, THREE_LANES, ("s",)).pack(integers, scalars)


@pytest.mark.parametrize("length", [-1, 1])
def test_sum_of_another_length_is_refused(length: int) -> None:
    packing = VectorFormat(4, THREE_LANES)
    with pytest.raises(ValueError, match="sum must be"):
        packing.unpack_sum(np.zeros(packing.words + length, dtype=np.uint64), 1)


@pytest.mark.parametrize(("per_word", "lane_bits", "value_bits"), [(3, 22, 16), (2, 32, 32), (2, 32, 1), (65, 1, 1)])
def test_lanes_that_do_not_fit_a_word_cannot_be_made(per_word: int, lane_bits: int, value_bits: int) -> None:
    with pytest.raises(ValueError, match="fit"):
        LaneFormat(per_word, lane_bits, value_bits)


def test_signed_scalars_may_be_negative_and_others_may_not() -> None:
    """A noised count below zero comes back as it is, from nodes and from their sum."""
    packing = VectorFormat(4, THREE_LANES, ("count", "noised"), frozenset({"noised"}))
    zeros = np.zeros(4, dtype=np.int64)
    rows = [{"count": 3, "noised": -7}, {"count": 4, "noised": 2}, {"count": 0, "noised": 1 - SCALAR_LIMIT}]
    total = np.zeros(packing.words, dtype=np.uint64)
    for row in rows:
        packed = packing.pack(zeros, row)
        assert packing.unpack_sum(packed, 1)[1] == row
        total += packed
    assert packing.unpack_sum(total, 3)[1] == {"count": 7, "noised": -4 - SCALAR_LIMIT}
    for wrong in ({"count": -1, "noised": 0}, {"count": 0, "noised": -SCALAR_LIMIT}):
        with pytest.raises(ValueError, match="outside"):
            packing.pack(zeros, wrong)
    with pytest.raises(ValueError, match="signs no other"):
        VectorFormat(4, THREE_LANES, ("count",), frozenset({"noised"}))
