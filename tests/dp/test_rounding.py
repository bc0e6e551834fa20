"""Rounding a patient's gradient: unbiased where it can be, never longer than the integer clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedvlm_secure.dp import rounding
from fedvlm_secure.dp.rounding import IntegerClip, add_rounded_rows, boxed, decode, grid_steps_for, round_rows
from fedvlm_secure.errors import ModelError
from fedvlm_secure.types import Secret

KEY = Secret(bytes(range(32)))


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(40)), elements=st.floats(-1e300, 1e300)),
    clip_norm=st.floats(1e-3, 1e3),
    grid_steps=st.integers(1, 1 << 20),
)
def test_no_integer_row_is_longer_than_the_integer_clip(rows: np.ndarray, clip_norm: float, grid_steps: int) -> None:
    clip = IntegerClip(clip_norm, grid_steps, 40)
    rounded = round_rows(rows, clip, KEY)
    assert rounded.dtype == np.int64
    assert all(sum(int(v) ** 2 for v in row) <= clip.squared for row in rounded)


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays.arrays(np.float32, (3, 40), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    clip_norm=st.floats(1e-30, 1e30),
    grid_steps=st.integers(1, 1 << 16),
)
def test_norm_holds_for_float32_rows_of_any_size(rows: np.ndarray, clip_norm: float, grid_steps: int) -> None:
    clip = IntegerClip(clip_norm, grid_steps, 40)
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    wanted = exact / np.maximum(norms / clip_norm, 1) * (grid_steps / clip_norm)
    rounded = round_rows(rows, clip, KEY)
    assert (np.einsum("ij,ij->i", rounded, rounded) <= clip.squared).all()
    assert np.abs(rounded - wanted).max() < 1.001 + grid_steps * 1e-6


@pytest.mark.parametrize("grid_steps", [1 << 11, 1 << 14, 1 << 15, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_long_row_is_rounded_to_a_neighbour_in_every_place(grid_steps: int, dtype: type) -> None:
    d = 150_001  # several pieces, the last one odd
    row = np.random.default_rng(4).normal(size=d) * 0.5 / math.sqrt(d)
    row[::1000] *= 30
    rounded = round_rows(row.astype(dtype)[None], IntegerClip(1.0, grid_steps, d), KEY)[0]
    exact = row * grid_steps
    error = rounded - exact
    assert np.abs(error).max() < 1.001 + grid_steps * 1e-6
    assert abs(error.mean()) < 5 * 0.5 / math.sqrt(d)
    share_up = np.count_nonzero(rounded > exact) / d
    assert 0.45 < share_up < 0.55


def test_adding_rounded_rows_is_the_sum_of_the_rounded_rows() -> None:
    clip = IntegerClip(1.0, 1 << 10, 70_000)
    rows = (np.random.default_rng(5).normal(size=(7, 70_000)) * 0.01).astype(np.float32)
    total = np.arange(70_000, dtype=np.int64)
    add_rounded_rows(total, rows, clip, KEY)
    np.testing.assert_array_equal(total - np.arange(70_000), round_rows(rows, clip, KEY).sum(axis=0))


def test_norm_holds_even_when_every_drawing_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IntegerClip, "squared", property(lambda self: self.grid_steps**2))
    clip = IntegerClip(1.0, 10, 5000)
    rows = np.random.default_rng(1).normal(size=(20, 5000))
    rounded = round_rows(rows, clip, KEY)
    assert (np.einsum("ij,ij->i", rounded, rounded) <= 100).all()


def test_truncation_is_reached_and_keeps_the_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "REDRAWS", 0)
    monkeypatch.setattr(IntegerClip, "squared", property(lambda self: self.grid_steps**2))
    row = np.array([5.7, 5.7, 5.7, 6.7])  # norm 11.93; most roundings of it are longer than 12, as is the nearest
    rounded = round_rows(np.tile(row / 12, (400, 1)), IntegerClip(1.0, 12, 4), KEY)
    assert (rounded == [5, 5, 5, 6]).all(axis=1).sum() > 200
    assert (np.einsum("ij,ij->i", rounded, rounded) <= 144).all()
    assert rounded.any(axis=1).all()


def test_rounding_is_unbiased_inside_the_clip() -> None:
    clip = IntegerClip(1.0, 64, 400)
    row = np.random.default_rng(2).normal(size=400) * 0.02
    rounded = round_rows(np.tile(row, (4000, 1)), clip, KEY)
    error = rounded.mean(axis=0) - row * 64
    assert np.abs(error).max() < 5 * 0.5 / math.sqrt(4000)
    assert abs(error.mean()) < 5 * 0.5 / math.sqrt(4000 * 400)


def test_each_row_is_clipped_by_its_own_norm() -> None:
    clip = IntegerClip(2.0, 1 << 20, 3)
    rows = np.array([[200.0, 0.0, 0.0], [1e-3, 0.0, 0.0], [0.0, -6.0, 8.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    decoded = np.stack([decode(row, clip, 1.0) for row in round_rows(rows, clip, KEY)])
    np.testing.assert_allclose(decoded, [[2, 0, 0], [1e-3, 0, 0], [0, -1.2, 1.6], [0, 0, 0]], atol=4e-6)


def test_rows_in_blocks_are_rounded_like_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = IntegerClip(1.0, 1 << 12, 100)
    rows = np.random.default_rng(3).normal(size=(50, 100)) * 0.01
    together = round_rows(rows, clip, KEY)
    monkeypatch.setattr(rounding, "_BLOCK_VALUES", 700)
    np.testing.assert_array_equal(round_rows(rows, clip, KEY), together)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_gradient_is_refused_without_its_values(bad: float) -> None:
    rows = np.ones((3, 5), dtype=np.float32)
    rows[1, 2] = bad
    with pytest.raises(ModelError) as caught:
        round_rows(rows, IntegerClip(1.0, 16, 5), KEY)
    assert caught.value.code == "NON_FINITE_GRADIENT"


def test_allowance_follows_the_published_bound() -> None:
    # Kairouz, Liu, Steinke 2021, theorem 1, as in google-research/federated, distributed_dp/accounting_utils.py:
    # sqrt(min(x^2 + d/4 + sqrt(2 ln(1/beta)) (x + sqrt(d)/2), (x + sqrt(d))^2)) at x = 1000, d = 20,000, beta = 2^-10.
    wanted = math.sqrt(1000**2 + 5000 + math.sqrt(2 * math.log(1024)) * (1000 + math.sqrt(20_000) / 2))
    clip = IntegerClip(1.0, 1000, 20_000)
    assert clip.squared == math.floor(wanted**2)
    assert clip.norm >= math.sqrt(clip.squared)
    assert IntegerClip(1.0, 1, 4).squared == 9  # tiny: the sure bound (x + sqrt(d))^2 is the smaller one


@pytest.mark.parametrize("dimension", [1, 20_000, 10_000_000])
def test_grid_is_as_coarse_as_the_allowance_lets_it(dimension: int) -> None:
    steps = grid_steps_for(dimension)
    assert IntegerClip(1.0, steps, dimension).allowance <= 0.005
    assert steps == 1 or IntegerClip(1.0, steps // 2, dimension).allowance > 0.005


@settings(max_examples=60, deadline=None)
@given(
    rows=arrays.arrays(np.int64, (5, 8), elements=st.integers(-50, 50)),
    one=arrays.arrays(np.int64, (1, 8), elements=st.integers(-50, 50)),
    limit=st.integers(0, 120),
)
def test_box_clip_moves_sums_no_further_apart(rows: np.ndarray, one: np.ndarray, limit: int) -> None:
    before = rows.sum(axis=0)
    change = boxed(before + one[0], limit) - boxed(before, limit)
    assert (np.abs(change) <= np.abs(one[0])).all()
    assert np.abs(boxed(before, limit)).max() <= limit


def test_an_empty_draw_sums_to_zero() -> None:
    empty = round_rows(np.zeros((0, 7)), IntegerClip(1.0, 16, 7), KEY)
    np.testing.assert_array_equal(boxed(empty.sum(axis=0), 100), np.zeros(7, dtype=np.int64))


@pytest.mark.parametrize(
    "fields", [(0.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0), (math.inf, 1, 1), (1.0, 1 << 30, 1), (1.0, 1, 1 << 61)]
)
def test_impossible_clips_are_refused(fields: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError):
        IntegerClip(*fields)
