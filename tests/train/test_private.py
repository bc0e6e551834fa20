"""A private round is the algorithm of the paper on this model, and leaves nothing un-noised behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train import private
from fedvlm_secure.train.private import clipped_sum
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.rows_of_patients import RowsOfPatients
from fedvlm_secure.types import Float64Vector
from fedvlm_secure.vlm.adapters import TunedModel
from tests.support.entropy import entropy
from tests.train.private_bench import ROWS, SETTINGS, row_loss, train, tuned_model, zeros


@pytest.fixture
def tuned() -> TunedModel:
    return tuned_model()


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> list[Float64Vector]:
    """The noised gradients that the optimizer was given."""
    seen: list[Float64Vector] = []
    real = private._put_gradient

    def record(tuned: TunedModel, gradient: Float64Vector) -> None:
        seen.append(gradient.copy())
        real(tuned, gradient)

    monkeypatch.setattr(private, "_put_gradient", record)
    return seen


def test_sum_before_noise_is_that_of_a_loop_over_patients_in_plain_autograd(tuned: TunedModel) -> None:
    loss = row_loss(tuned)
    drawn = RowsOfPatients(ROWS).draw(0.25, 3, entropy("draw"))
    assert len(drawn) > 3
    assert {len(numbers) for numbers in drawn} >= {2, 3} or {len(numbers) for numbers in drawn} == {3}
    wanted = np.zeros(tuned.layout.dimension)
    clipped = 0
    for numbers in drawn:
        mean = np.zeros(tuned.layout.dimension)
        for number in numbers:
            found = torch.autograd.grad(loss([ROWS[number]]), tuned.trainable)
            mean += np.concatenate([part.numpy().reshape(-1) for part in found]) / len(numbers)
        norm = float(np.linalg.norm(mean))
        clipped += norm > 2.0
        wanted += mean * min(1.0, 2.0 / norm)
    assert clipped > 0
    clip = PrivateSettings(2.0, 1.0, 0.25, 1, 40, 0.01).clip(tuned.layout.dimension)
    with RowGradients(loss) as gradients:
        found_sum = clipped_sum(gradients, ROWS, drawn, 24, clip, entropy("rounding"))
    error = found_sum * clip.grid - wanted
    # stochastic rounding errs by up to a step per value and patient, with a mean square of at most a quarter
    assert np.linalg.norm(error) < 1.05 * clip.grid * np.sqrt(len(drawn) * len(error) / 4)
    assert np.linalg.norm(error) < 0.25 * np.linalg.norm(wanted)


def test_small_microbatches_change_only_the_rounding(tuned: TunedModel) -> None:
    drawn = RowsOfPatients(ROWS).draw(0.5, 3, entropy("draw"))
    clip = SETTINGS.clip(tuned.layout.dimension)
    sums = []
    with RowGradients(row_loss(tuned)) as gradients:
        for microbatch in (3, 1000):
            sums.append(clipped_sum(gradients, ROWS, drawn, microbatch, clip, entropy(f"by {microbatch}")))
    spread = np.sqrt(2 * len(drawn) * clip.dimension / 4)
    assert np.linalg.norm(sums[0] - sums[1]) < 1.05 * spread


def test_nobody_drawn_is_a_step_of_noise_alone(tuned: TunedModel, put: list[Float64Vector]) -> None:
    update = train(tuned, sampling_rate=1e-9, steps_per_round=3).update
    assert len(put) == 3
    noise = SETTINGS.noise(tuned.layout.dimension).share_variance
    for gradient in put:
        steps = gradient / SETTINGS.clip(len(gradient)).grid * (1e-9 * SETTINGS.expected_patients)
        assert np.var(steps) == pytest.approx(noise, rel=0.1)
    assert np.abs(update).max() == pytest.approx(3 * SETTINGS.learning_rate, rel=0.05)


def test_the_first_step_is_adamw_on_the_noised_mean(tuned: TunedModel, put: list[Float64Vector]) -> None:
    update = train(tuned, steps_per_round=1).update
    # Adam's first step is lr * g / (|g| + eps)
    wanted = -SETTINGS.learning_rate * put[0] / (np.abs(put[0]) + 1e-8)
    np.testing.assert_allclose(update, wanted, atol=1e-6)


def test_proximal_term_is_added_to_the_noised_gradient(tuned: TunedModel, put: list[Float64Vector]) -> None:
    start = train(tuned, "start", steps_per_round=1).update
    put.clear()
    train(tuned, difference=start)
    train(tuned, difference=start, mu=5.0)
    (first, second), (prox_first, prox_second) = put[:2], put[2:]
    np.testing.assert_array_equal(first, prox_first)  # at w = w_global the term is zero
    moved = -SETTINGS.learning_rate * first / (np.abs(first) + 1e-8)
    np.testing.assert_allclose(prox_second - second, 5.0 * moved, atol=1e-4)


def test_the_round_depends_on_the_entropy_and_the_state_alone(tuned: TunedModel) -> None:
    one, again, other = train(tuned), train(tuned), train(tuned, "another round")
    assert np.array_equal(one.update, again.update)
    assert not np.array_equal(one.update, other.update)


def test_nothing_un_noised_is_reported_or_left_on_the_model(tuned: TunedModel) -> None:
    update = train(tuned)
    assert (update.rows, update.loss_sum, update.loss_count) == (0, 0.0, 0)
    assert all(parameter.grad is None for parameter in tuned.model.parameters())
    assert not any(hasattr(parameter, "grad_sample") for parameter in tuned.model.parameters())
    assert not any("activations" in module.__dict__ for module in tuned.model.modules())
    assert not any(module._forward_hooks or module._backward_hooks for module in tuned.model.modules())
    assert not tuned.model.training


def test_model_is_clean_after_a_failure_too(tuned: TunedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ModelError("NON_FINITE_GRADIENT", "as if", "")

    with monkeypatch.context() as patched:
        patched.setattr(private, "add_rounded_rows", broken)
        with pytest.raises(ModelError):
            train(tuned)
    assert not any(hasattr(parameter, "grad_sample") for parameter in tuned.model.parameters())
    assert not tuned.model.training
    assert train(tuned).update.any()


def test_frozen_factor_stays_and_noise_moves_every_trained_value(tuned: TunedModel) -> None:
    frozen = {n: p.detach().clone() for n, p in tuned.model.named_parameters() if ".lora_A." in n}
    update = train(tuned).update
    assert frozen
    assert all(torch.equal(p, frozen[n]) for n, p in tuned.model.named_parameters() if n in frozen)
    assert np.count_nonzero(update) > 0.99 * len(update)


def test_training_with_little_noise_lowers_the_loss(tuned: TunedModel) -> None:
    loss = row_loss(tuned)
    tuned.load_difference(zeros(tuned))
    with torch.no_grad():
        before = float(loss(ROWS))
    train(tuned, noise_multiplier=0.05, sampling_rate=1.0, patient_cap=6, steps_per_round=14)
    with torch.no_grad():
        after = float(loss(ROWS))
    assert after < 0.8 * before


def test_adapters_replaced_by_a_move_are_refused(tuned: TunedModel) -> None:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        tuned.model.double().float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    with pytest.raises(ModelError) as caught:
        train(tuned)
    assert caught.value.code == "DP_STALE_PARAMETERS"


def test_one_tensor_that_stands_still_is_refused_by_name(tuned: TunedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = private._put_gradient

    def forget_the_second(tuned: TunedModel, gradient: Float64Vector) -> None:
        real(tuned, gradient)
        tuned.trainable[1].grad = None

    monkeypatch.setattr(private, "_put_gradient", forget_the_second)
    with pytest.raises(ModelError) as caught:
        train(tuned)
    assert caught.value.code == "ZERO_UPDATE"
    assert tuned.layout.slots[1].name in caught.value.cause


def test_a_loss_that_no_tensor_reaches_is_refused_although_noise_moves_everything(tuned: TunedModel) -> None:
    with torch.no_grad():
        tuned.model.lm_head.weight.zero_()
    with pytest.raises(ModelError) as caught:
        train(tuned)
    assert caught.value.code == "NO_GRADIENT"


def test_a_gradient_that_is_not_finite_is_refused_without_its_value(tuned: TunedModel) -> None:
    with torch.no_grad():
        tuned.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError) as caught:
        train(tuned)
    assert caught.value.code == "NON_FINITE_GRADIENT"


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_norm": 0.0},
        {"noise_multiplier": float("inf")},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"steps_per_round": 0},
        {"expected_patients": 0},
        {"learning_rate": -1.0},
        {"patient_cap": 0},
        {"patient_cap": 30},
        {"mu": -0.1},
        {"schedule": "linear"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    sound: dict[str, Any] = {
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "sampling_rate": 0.2,
        "steps_per_round": 1,
        "expected_patients": 10,
        "learning_rate": 0.01,
        "microbatch": 20,
    }
    PrivateSettings(**sound)
    with pytest.raises(ValueError, match=r"privacy|microbatch|sampling_rate"):
        PrivateSettings(**(sound | wrong))
