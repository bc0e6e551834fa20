"""Under shared noise a hospital hands over one exact sum of clipped gradients, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train import session, summed
from fedvlm_secure.train.noised import NoisedTraining, SummedTraining
from fedvlm_secure.train.private import clipped_sum
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.train.rows_of_patients import RowsOfPatients
from fedvlm_secure.train.session import LocalTraining, Tuning
from fedvlm_secure.train.settings import LocalUpdate
from fedvlm_secure.train.summed import sum_gradients
from fedvlm_secure.types import Int64Vector
from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
from fedvlm_secure.vlm.base import shipped_base
from tests.support.entropy import entropy
from tests.train.private_bench import CONTRACT, DATA, ROWS, SETTINGS, row_loss, tuned_model, zeros


@pytest.fixture(scope="module")
def tuned() -> TunedModel:
    return tuned_model()


def handed_over(tuned: TunedModel, label: str = "round", **changes: Any) -> LocalUpdate:
    settings = replace(SETTINGS, steps_per_round=1, **changes)
    return sum_gradients(row_loss(tuned), ROWS, settings, difference=zeros(tuned), entropy=entropy(label))


def integers(done: LocalUpdate) -> Int64Vector:
    assert done.integers is not None
    return done.integers


def test_it_is_the_negative_of_the_sum_that_private_training_would_noise(tuned: TunedModel) -> None:
    """Drawn, clipped and rounded by the same calls from the same entropy: one integer path serves both mechanisms."""
    done, source = handed_over(tuned), entropy("round")
    tuned.load_difference(zeros(tuned))
    drawn = RowsOfPatients(ROWS).draw(SETTINGS.sampling_rate, SETTINGS.patient_cap, source)
    clip = SETTINGS.clip(tuned.layout.dimension)
    with RowGradients(row_loss(tuned)) as gradients:
        total = clipped_sum(gradients, ROWS, drawn, SETTINGS.microbatch, clip, source)
    assert len(drawn) > 3 and np.array_equal(integers(done), -total)


def test_adding_the_sum_lowers_the_loss(tuned: TunedModel) -> None:
    done = handed_over(tuned, sampling_rate=1.0)
    loss, step = row_loss(tuned), np.zeros(tuned.layout.dimension, np.float32)
    tuned.load_difference(step)
    before = loss(ROWS).item()
    tuned.load_difference((0.01 * SETTINGS.clip(len(step)).grid * integers(done)).astype(np.float32))
    assert loss(ROWS).item() < before


def test_no_step_is_made_and_nothing_else_is_handed_over(tuned: TunedModel) -> None:
    done = handed_over(tuned)
    assert (done.update.size, done.rows, done.loss_sum, done.loss_count) == (0, 0, 0.0, 0)
    assert not tuned.read_difference().any()


def test_no_patient_weighs_more_than_the_clip(tuned: TunedModel) -> None:
    """With one patient in the data the sum is that patient's, whose integer norm is what accounting uses."""
    alone = [row for row in ROWS if row.patient == ROWS[0].patient]
    settings = replace(SETTINGS, sampling_rate=1.0, clip_norm=0.01)
    done = sum_gradients(row_loss(tuned), alone, settings, difference=zeros(tuned), entropy=entropy("one"))
    norm = float(np.linalg.norm(integers(done)))
    clip = settings.clip(tuned.layout.dimension)
    assert 0.9 * clip.grid_steps < norm <= clip.norm


def test_nobody_drawn_gives_zeros_and_no_error(tuned: TunedModel) -> None:
    assert not integers(handed_over(tuned, sampling_rate=1e-9)).any()


def test_gradients_that_round_to_nothing_are_no_error_that_others_could_see(
    tuned: TunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summed, "clipped_sum", lambda *_: np.zeros(tuned.layout.dimension, dtype=np.int64))
    assert not integers(handed_over(tuned)).any()


def member() -> LocalTraining:
    return LocalTraining(
        Tuning(shipped_base("tiny-fuyu"), None, "lora", LoraSettings(r=4, factors="ffa"), 1),
        CONTRACT,
        DATA,
        None,
        batch_order=np.random.default_rng,
        split_key=b"split",
    )


def test_a_round_of_a_session_is_one_sum_and_the_model_is_admitted_before(monkeypatch: pytest.MonkeyPatch) -> None:
    tests: list[object] = []
    monkeypatch.setattr(session, "admit", lambda *given: tests.append(given))
    one = member()
    start = np.zeros(one.layout.dimension, np.float32)
    training = SummedTraining(one, replace(SETTINGS, steps_per_round=1, rounds=2), entropy("round"))
    first, second = (training.train(number, start) for number in (1, 2))
    assert len(tests) == 1 and not np.array_equal(integers(first), integers(second))
    beyond = training.train(3, start)
    assert beyond.integers is None and not beyond.update.any()
    plain = NoisedTraining(one, replace(SETTINGS, steps_per_round=1), entropy("round")).train(1, start)
    assert plain.integers is None and plain.update.any()


def test_a_model_that_is_not_admitted_gives_no_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> float:
        raise ModelError("DP_FAMILY_REFUSED", "as if", "")

    monkeypatch.setattr(session, "admit", refuse)
    monkeypatch.setattr(session, "sum_gradients", lambda *_, **__: pytest.fail("summed"))
    one = member()
    with pytest.raises(ModelError):
        one.sum_gradients(np.zeros(one.layout.dimension, np.float32), SETTINGS, entropy("one"))
