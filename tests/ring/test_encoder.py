"""The encoder's chunks are the packed vector, bit for bit, at every border; and sums of keystreams are their sums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fedvlm_secure.errors import ModelError
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.ring.encoder import UpdateEncoder
from fedvlm_secure.ring.keystream import CACHE_WORDS, CHUNK_WORDS, Keystream, add_keystreams
from fedvlm_secure.ring.lanes import THREE_LANES, TWO_LANES, LaneFormat
from fedvlm_secure.ring.quantise import Quantiser, quantise
from fedvlm_secure.ring.vector import VectorFormat
from fedvlm_secure.types import Float32Vector
from tests.support.entropy import secret, words

MAX_UPDATE = 0.25
SCALARS = {"weight": 65_536, "change": -3}


def quantiser(update: Float32Vector, lanes: LaneFormat) -> Quantiser:
    return Quantiser(update, layout=_layout(len(update)), lanes=lanes, max_update=MAX_UPDATE, weight=65_536,
                     rounding_key=secret("rounding"))  # fmt: skip


def _layout(dimension: int) -> UpdateLayout:
    return UpdateLayout((TensorSlot("connector.weight", (dimension,)),))


def _update(dimension: int) -> Float32Vector:
    return np.random.default_rng(dimension).normal(0, 0.1, dimension).astype(np.float32)


@pytest.mark.parametrize(
    ("lanes", "dimension"),
    [
        (THREE_LANES, 1),
        (THREE_LANES, 5),
        (TWO_LANES, 2 * CACHE_WORDS + 1),
        (THREE_LANES, 3 * CHUNK_WORDS - 7),  # scalars and check word cross the border of a chunk
        (THREE_LANES, 3 * CHUNK_WORDS),
        (TWO_LANES, 2 * CHUNK_WORDS + 1),  # the second lane begins at an odd word of the roundings
    ],
)
def test_chunks_of_the_encoder_are_the_vector_packed_at_once(lanes: LaneFormat, dimension: int) -> None:
    update, vector = _update(dimension), VectorFormat(dimension, lanes, tuple(SCALARS), frozenset({"change"}))
    whole = quantise(update, layout=_layout(dimension), lanes=lanes, max_update=MAX_UPDATE, weight=65_536,
                     rounding_key=secret("rounding"))  # fmt: skip
    reader = quantiser(update, lanes)
    chunks = [chunk.copy() for chunk in UpdateEncoder(reader, vector, SCALARS).chunks()]
    assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK_WORDS] * (len(chunks) - 1)
    assert np.array_equal(np.concatenate(chunks), vector.pack(whole.integers, SCALARS))
    assert reader.clipped_share == whole.clipped_share > 0 or dimension < 100


def test_value_that_is_no_number_stops_the_encoder_and_names_the_tensor_alone() -> None:
    update = _update(CHUNK_WORDS)
    update[-1] = np.nan
    vector = VectorFormat(len(update), THREE_LANES)
    with pytest.raises(ModelError, match=r"connector\.weight") as caught:
        list(UpdateEncoder(quantiser(update, THREE_LANES), vector, {}).chunks())
    assert caught.value.code == "NON_FINITE_UPDATE"


def test_scalars_that_the_vector_does_not_name_are_refused() -> None:
    with pytest.raises(ValueError, match="scalars differ"):
        UpdateEncoder(quantiser(_update(9), THREE_LANES), VectorFormat(9, THREE_LANES, ("weight",)), {})


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_parts_in_threads_give_the_sum_of_the_streams_one_by_one(parts: int) -> None:
    plain = words("plain", 2 * CHUNK_WORDS + 3)
    expected = plain.copy()
    for name in ("a", "b"):
        Keystream(secret(name)).add_to(expected)
    Keystream(secret("c")).subtract_from(expected)
    found = plain.copy()
    with ThreadPoolExecutor(2) as pool:
        add_keystreams(found, [secret("a"), secret("b")], [secret("c")], pool=pool, parts=parts)
    assert np.array_equal(found, expected)
