"""Clip, weight, scale, round stochastically: inside the lane, within one step, unbiased."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlm_secure.errors import ModelError
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.ring.keystream import CHUNK_WORDS
from fedvlm_secure.ring.lanes import FOUR_LANES, THREE_LANES, TWO_LANES, LaneFormat
from fedvlm_secure.ring.quantise import Quantised, dequantise, grid_weight, quantise
from tests.support.entropy import secret
from tests.support.vectors import vector

FORMATS = [TWO_LANES, THREE_LANES, FOUR_LANES]
ONE = 1 << 16


def encode(update: np.ndarray, *, lanes: LaneFormat = THREE_LANES, weight: int = ONE, key: int = 0) -> Quantised:
    layout = UpdateLayout((TensorSlot("first", (2,)), TensorSlot("second", (len(update) - 2,))))
    return quantise(
        update.astype(np.float32),
        layout=layout,
        lanes=lanes,
        max_update=0.25,
        weight=weight,
        rounding_key=secret("r", key),
    )


def test_values_on_the_grid_are_the_hand_computed_integers() -> None:
    expect = vector("ring")["quantised"]
    quantised = encode(np.array(expect["update"]))
    assert quantised.integers.tolist() == expect["integers"]
    assert quantised.clipped_share == 0.5


@pytest.mark.parametrize("max_update", ["0.25", "1.0", "0.5", "1000.0"])
def test_scale_is_the_largest_power_of_two_that_fits(max_update: str) -> None:
    bits = THREE_LANES.scale_bits(float(max_update))
    assert bits == vector("ring")["scale_bits"][max_update]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(FORMATS), st.floats(1e-30, 1e30))
def test_scale_never_lets_a_value_leave_its_lane_and_one_more_bit_would(lanes: LaneFormat, max_update: float) -> None:
    bits = lanes.scale_bits(max_update)
    assert math.ldexp(max_update, bits) + 1 <= lanes.largest
    assert math.ldexp(max_update, bits + 1) + 1 > lanes.largest


@pytest.mark.parametrize("max_update", [0.0, -1.0, math.inf, math.nan])
def test_clip_bound_that_is_no_positive_number_is_refused(max_update: float) -> None:
    with pytest.raises(ValueError, match="max_update"):
        THREE_LANES.scale_bits(max_update)


@pytest.mark.parametrize("lanes", FORMATS, ids=lambda lanes: f"{lanes.per_word} lanes")
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), weight=st.integers(0, ONE), spread=st.floats(1e-6, 1e6))
def test_decoded_value_is_within_one_step_of_the_clipped_weighted_update(
    lanes: LaneFormat, seed: int, weight: int, spread: float
) -> None:
    update = (np.random.default_rng(seed).normal(0, spread, 50)).astype(np.float32)
    bits = lanes.scale_bits(0.25)
    integers = encode(update, lanes=lanes, weight=weight, key=seed).integers
    exact = np.clip(update.astype(np.float64), -0.25, 0.25) * weight / ONE
    assert np.abs(integers).max() <= lanes.largest
    assert (np.abs(dequantise(integers, scale_bits=bits) - exact) < 2.0**-bits).all()


def test_stochastic_rounding_is_unbiased() -> None:
    step = 2.0 ** -THREE_LANES.scale_bits(0.25)
    count = 200_000
    for fraction in (0.1, 0.5, 0.937):
        update = np.full(count, (100 + fraction) * step, dtype=np.float32)
        true = float(update[0]) / step - 100
        up = (encode(update).integers - 100).mean()
        assert abs(up - true) < 5 * math.sqrt(true * (1 - true) / count)


def test_rounding_differs_between_keys_chunks_and_equal_coordinates() -> None:
    step = 2.0 ** -THREE_LANES.scale_bits(0.25)
    update = np.full(CHUNK_WORDS + 1000, 100.5 * step, dtype=np.float32)
    first, other = encode(update).integers, encode(update, key=1).integers
    assert 0.45 < (first == other).mean() < 0.55
    assert not np.array_equal(first[:1000], first[CHUNK_WORDS:])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("at", "name"), [(1, "first"), (2, "second"), (CHUNK_WORDS + 3, "second")])
def test_value_that_is_no_number_is_refused_with_its_tensor_and_without_its_value(
    bad: float, at: int, name: str
) -> None:
    update = np.full(CHUNK_WORDS + 10, 0.123, dtype=np.float32)
    update[at] = bad
    with pytest.raises(ModelError) as caught:
        encode(update)
    assert caught.value.code == "NON_FINITE_UPDATE"
    assert name in caught.value.cause
    assert "0.123" not in str(caught.value)


def test_denormal_update_rounds_to_at_most_one_step() -> None:
    assert np.abs(encode(np.full(100, 1e-45)).integers).max() <= 1


@pytest.mark.parametrize("weight", [-0.1, 1.0001, math.nan])
def test_weight_outside_zero_to_one_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        grid_weight(weight)
    assert (grid_weight(0.0), grid_weight(1.0), grid_weight(1 / 3)) == (0, ONE, 21845)


@pytest.mark.parametrize("weight", [-1, ONE + 1])
def test_grid_weight_outside_its_grid_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match="grid weight"):
        encode(np.zeros(4), weight=weight)


def test_update_of_another_length_or_dtype_is_refused() -> None:
    layout = UpdateLayout((TensorSlot("w", (4,)),))
    for update in (np.zeros(3, dtype=np.float32), np.zeros(4, dtype=np.float64), np.zeros((2, 2), dtype=np.float32)):
        with pytest.raises(ValueError, match="float32"):
            quantise(
                update,  # type: ignore[arg-type]
                layout=layout, lanes=THREE_LANES, max_update=1.0, weight=1, rounding_key=secret("r"),
            )  # fmt: skip
