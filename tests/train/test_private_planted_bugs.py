"""Audits of a private round, and the well-known mistakes that each of them has to catch.

An audit asks about what a round does with entropy that is fixed; it passes on the code as it is and fails on the same
code with one mistake planted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.rounding import IntegerClip, decode
from fedvlm_secure.train import private
from fedvlm_secure.train.private import Coordinates
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.train.rows_of_patients import RowsOfPatients
from fedvlm_secure.types import Entropy, Float64Vector, Int64Vector, Secret
from fedvlm_secure.vlm.adapters import TunedModel
from fedvlm_secure.vlm.data.rows import Row
from tests.support.entropy import entropy
from tests.train.private_bench import ROWS, SETTINGS, row_loss, train, tuned_model

Bug = Callable[[pytest.MonkeyPatch], None]
PATIENTS = RowsOfPatients(ROWS).patients


@pytest.fixture(scope="module")
def tuned() -> TunedModel:
    return tuned_model()


@contextmanager
def gradients_of(tuned: TunedModel, row: Callable[[Row], Float64Vector]) -> Iterator[None]:
    """Rows with gradients that the audit has chosen, so that an audit takes no forward pass."""

    def chosen(_: RowGradients, rows: Sequence[Row], counts: Sequence[int]) -> Iterator[Any]:
        yield np.stack([row(one) for one in rows]).astype(np.float32), counts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowGradients, "pieces", chosen)
        yield


def optimizer_inputs(tuned: TunedModel, label: str, **changes: Any) -> list[Float64Vector]:
    seen: list[Float64Vector] = []
    real = private._put_gradient

    def record(model: TunedModel, gradient: Float64Vector) -> None:
        seen.append(gradient.copy())
        real(model, gradient)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private, "_put_gradient", record)
        train(tuned, label, **changes)
    return seen


def one_coordinate(tuned: TunedModel) -> Callable[[Row], Float64Vector]:
    """A gradient that leaves all coordinates but the first to the noise."""
    unit = np.zeros(tuned.layout.dimension)
    unit[0] = 0.5
    return lambda row: unit


def audit_noise_is_drawn_once_per_step(tuned: TunedModel) -> None:
    """Variance of what the optimizer gets, in grid steps, over 4 steps whose batches need many chunks."""
    clip = SETTINGS.clip(tuned.layout.dimension)
    wanted = SETTINGS.noise(tuned.layout.dimension).share_variance
    with gradients_of(tuned, one_coordinate(tuned)):
        seen = optimizer_inputs(tuned, "noise", steps_per_round=4, microbatch=3, sampling_rate=0.5)
    steps = np.concatenate([gradient[1:] for gradient in seen]) / clip.grid * 0.5 * SETTINGS.expected_patients
    # 4 * 6143 values: the sample variance has a relative standard deviation of 0.9 %
    assert abs(np.var(steps) / wanted - 1) < 0.045
    halves = np.corrcoef(seen[0][1:], seen[1][1:])[0, 1]
    assert abs(halves) < 0.064, "two steps share noise"


def audit_one_patient_moves_the_sum_by_at_most_the_clip(tuned: TunedModel) -> None:
    """A patient with many rows and huge gradients, alone: its part of the sum is the sum."""
    generator = np.random.default_rng(5)
    huge = generator.normal(0.0, 1.0, tuned.layout.dimension)
    clip = SETTINGS.clip(tuned.layout.dimension)
    with gradients_of(tuned, lambda row: huge), RowGradients(row_loss(tuned)) as gradients:
        for rows in (1, 3, 5):
            numbers = np.arange(rows, dtype=np.int64)
            total = private.clipped_sum(gradients, ROWS, [numbers], 5, clip, entropy(f"rows {rows}"))
            norm = float(np.sqrt(np.sum(total.astype(np.float64) ** 2)))
            assert norm <= clip.norm, f"{rows} rows of one patient weigh {norm / clip.norm:.2f} clips"
            assert norm > 0.95 * clip.grid_steps


def audit_patients_are_drawn_by_coins_of_their_own(tuned: TunedModel) -> None:
    """Sizes of 300 draws, drawings in consecutive steps, and that a drawn patient brings all its rows."""
    people, source, rate = RowsOfPatients(ROWS), entropy("coins"), 0.2
    owners = [row.patient for row in ROWS]
    counts = {owner: owners.count(owner) for owner in owners}
    draws = [people.draw(rate, 100, source) for _ in range(300)]
    for drawn in draws:
        assert all(len(numbers) == counts[owners[numbers[0]]] for numbers in drawn), "rows were drawn, not patients"
    sizes = np.array([len(drawn) for drawn in draws])
    mean, variance = PATIENTS * rate, PATIENTS * rate * (1 - rate)
    # a sum of 300 squared standard normals, nearly: mean 300, standard deviation 24.5
    assert 200 < np.sum((sizes - mean) ** 2) / variance < 410
    names = [{owners[numbers[0]] for numbers in drawn} for drawn in draws]
    repeats = sum(len(one & other) for one, other in pairwise(names))
    expected = 299 * PATIENTS * rate**2
    assert abs(repeats - expected) < 5 * np.sqrt(expected)


def audit_the_divisor_does_not_follow_the_draw(tuned: TunedModel) -> None:
    """The noise in gradient units is the same in every step, whoever was drawn."""
    with gradients_of(tuned, one_coordinate(tuned)):
        seen = optimizer_inputs(tuned, "divisor", steps_per_round=6, sampling_rate=0.1)
    spreads = np.array([np.std(gradient[1:]) for gradient in seen])
    assert spreads.max() / spreads.min() < 1.08


def test_the_round_as_it_is_passes_every_audit(tuned: TunedModel) -> None:
    audit_noise_is_drawn_once_per_step(tuned)
    audit_one_patient_moves_the_sum_by_at_most_the_clip(tuned)
    audit_patients_are_drawn_by_coins_of_their_own(tuned)
    audit_the_divisor_does_not_follow_the_draw(tuned)


def noise_per_microbatch(patch: pytest.MonkeyPatch) -> None:
    real = private.clipped_sum

    def noisy(
        gradients: RowGradients,
        rows: Sequence[Row],
        drawn: Sequence[Int64Vector],
        microbatch: int,
        clip: IntegerClip,
        source: Entropy,
        resting: Coordinates,
    ) -> Int64Vector:
        noise = DiscreteGaussian(SETTINGS.noise(clip.dimension).share_variance)
        total: Int64Vector = np.zeros(clip.dimension, dtype=np.int64)
        for at, one in enumerate(drawn):
            total += real(gradients, rows, [one], microbatch, clip, source, resting)
            if at:  # the step's own noise counts for the first chunk
                noise.add_to(total, Secret(source.bytes(32)))
        return total

    patch.setattr(private, "clipped_sum", noisy)


def noise_from_one_key(patch: pytest.MonkeyPatch) -> None:
    real = DiscreteGaussian.add_to
    patch.setattr(DiscreteGaussian, "add_to", lambda self, values, _: real(self, values, Secret(bytes(32))))


def noise_forgotten_for_half(patch: pytest.MonkeyPatch) -> None:
    real = DiscreteGaussian.add_to

    def every_second(self: DiscreteGaussian, values: Int64Vector, key: Secret) -> None:
        noisy = values[::2].copy()
        real(self, noisy, key)
        values[::2] = noisy

    patch.setattr(DiscreteGaussian, "add_to", every_second)


def forgotten_clip(patch: pytest.MonkeyPatch) -> None:
    def unclipped(total: Int64Vector, rows: NDArray[np.float32], clip: IntegerClip, key: Secret) -> None:
        total += np.rint(rows / clip.grid).astype(np.int64).sum(axis=0)

    patch.setattr(private, "add_rounded_rows", unclipped)


def clip_per_tensor(patch: pytest.MonkeyPatch) -> None:
    def by_parts(total: Int64Vector, rows: NDArray[np.float32], clip: IntegerClip, key: Secret) -> None:
        parts = np.array_split(rows.astype(np.float64), 4, axis=1)
        shrunk = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True) / clip.clip_norm, 1) for part in parts]
        total += np.rint(np.concatenate(shrunk, axis=1) / clip.grid).astype(np.int64).sum(axis=0)

    patch.setattr(private, "add_rounded_rows", by_parts)


def clip_per_picture(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(private, "patient_means", lambda matrix, counts: matrix)


def shuffled_batches(patch: pytest.MonkeyPatch) -> None:
    queue: list[int] = []
    generator = np.random.default_rng(3)

    def fixed_size(self: RowsOfPatients, rate: float, cap: int, source: Entropy) -> tuple[Int64Vector, ...]:
        if not queue:
            queue.extend(generator.permutation(self.patients).tolist())
        size = max(1, round(rate * self.patients))
        drawn, queue[:] = queue[:size], queue[size:]
        return tuple(self._groups[patient] for patient in drawn)

    patch.setattr(RowsOfPatients, "draw", fixed_size)


def one_draw_for_the_whole_run(patch: pytest.MonkeyPatch) -> None:
    real = RowsOfPatients.draw
    patch.setattr(RowsOfPatients, "draw", lambda self, rate, cap, source: real(self, rate, cap, entropy("the seed")))


def rows_drawn_instead_of_patients(patch: pytest.MonkeyPatch) -> None:
    real = RowsOfPatients.draw

    def some_rows(self: RowsOfPatients, rate: float, cap: int, source: Entropy) -> tuple[Int64Vector, ...]:
        return tuple(numbers[: 1 + at % 2] for at, numbers in enumerate(real(self, rate, cap, source)))

    patch.setattr(RowsOfPatients, "draw", some_rows)


def mean_over_who_was_drawn(patch: pytest.MonkeyPatch) -> None:
    real_sum, drawn_now = private.clipped_sum, [1]

    def count(gradients: RowGradients, rows: Any, drawn: Any, *rest: Any) -> Int64Vector:
        drawn_now[0] = max(1, len(drawn))
        return real_sum(gradients, rows, drawn, *rest)

    patch.setattr(private, "clipped_sum", count)
    patch.setattr(private, "decode", lambda total, clip, _: decode(total, clip, drawn_now[0]))


@pytest.mark.parametrize(
    ("bug", "audit"),
    [
        (noise_per_microbatch, audit_noise_is_drawn_once_per_step),
        (noise_from_one_key, audit_noise_is_drawn_once_per_step),
        (noise_forgotten_for_half, audit_noise_is_drawn_once_per_step),
        (forgotten_clip, audit_one_patient_moves_the_sum_by_at_most_the_clip),
        (clip_per_tensor, audit_one_patient_moves_the_sum_by_at_most_the_clip),
        (clip_per_picture, audit_one_patient_moves_the_sum_by_at_most_the_clip),
        (shuffled_batches, audit_patients_are_drawn_by_coins_of_their_own),
        (one_draw_for_the_whole_run, audit_patients_are_drawn_by_coins_of_their_own),
        (rows_drawn_instead_of_patients, audit_patients_are_drawn_by_coins_of_their_own),
        (mean_over_who_was_drawn, audit_the_divisor_does_not_follow_the_draw),
    ],
)
def test_a_planted_mistake_trips_its_audit(
    tuned: TunedModel, bug: Bug, audit: Callable[[TunedModel], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        audit(tuned)
