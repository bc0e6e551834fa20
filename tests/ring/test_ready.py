"""Integers that come clipped and noised are packed as they are."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlm_secure.ring.encoder import UpdateEncoder
from fedvlm_secure.ring.lanes import TWO_LANES
from fedvlm_secure.ring.ready import ReadyIntegers
from fedvlm_secure.ring.vector import VectorFormat


@pytest.mark.parametrize("dimension", [1, 2, 7, 5000, 300_001])
def test_the_chunks_are_the_packed_integers_and_the_integers_are_left_alone(dimension: int) -> None:
    """Negative ones as well, up to the ends of a lane, over more than one chunk."""
    values = np.random.default_rng(dimension).integers(-TWO_LANES.largest, TWO_LANES.largest, dimension, endpoint=True)
    vector = VectorFormat(dimension, TWO_LANES, ("weight",))
    before = values.copy()
    words = np.concatenate(
        [chunk.copy() for chunk in UpdateEncoder(ReadyIntegers(values, TWO_LANES), vector, {"weight": 3}).chunks()]
    )
    assert np.array_equal(words, vector.pack(values, {"weight": 3}))
    assert np.array_equal(values, before)
    assert np.array_equal(vector.unpack_sum(words, 1)[0], values)


@pytest.mark.parametrize("value", [TWO_LANES.largest + 1, -TWO_LANES.largest - 1])
def test_an_integer_beyond_its_lane_is_refused_and_never_cut(value: int) -> None:
    with pytest.raises(ValueError, match="left its lane"):
        ReadyIntegers(np.array([0, value, 0], dtype=np.int64), TWO_LANES)
