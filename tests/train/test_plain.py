"""Local training moves what it should, as PyTorch would, and refuses what must not be sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.batches import answer_loss, batch_orders, make_batch, shift_pictures
from fedvlm_secure.train.plain import train_plain
from fedvlm_secure.train.settings import LocalSettings, LocalUpdate
from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.tasks.patches import picture_patches
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

CONTRACT = derive_contract(contract_rows())
DATA = draw_hospital(SITES["coast"], patients=40, image_size=32, name="coast", rng=np.random.default_rng(2))
ROWS = tuple(row for row in DATA.rows if row.task in ("vqa", "classification"))
SETTINGS = LocalSettings(learning_rate=3e-3, batch_size=16, steps=6)


@pytest.fixture
def tuned() -> TunedModel:
    base = load_base(shipped_base("tiny-fuyu"))
    return TunedModel(base, strategy="connector+lora", lora=LoraSettings(), seed=1)


def train(tuned: TunedModel, settings: LocalSettings = SETTINGS, seed: int = 9, **changes: Any) -> LocalUpdate:
    codec = PromptCodec(tuned.base, CONTRACT)
    wanted: dict[str, Any] = {
        "round_number": 1,
        "difference": np.zeros(tuned.layout.dimension, np.float32),
        "rng": np.random.default_rng(seed),
    } | changes
    return train_plain(tuned, codec, ROWS, DATA.pictures, settings, **wanted)


def test_loss_at_answer_positions_is_that_of_transformers_with_masked_labels(tuned: TunedModel) -> None:
    codec = PromptCodec(tuned.base, CONTRACT)
    pairs = [(row.question, row.answer) for row in ROWS[:7]]
    batch = make_batch(codec, pairs, DATA.pictures[[row.picture for row in ROWS[:7]]])
    patches = picture_patches(batch.pictures, patch=16, normalisation="unit")
    ours = answer_loss(tuned.model, batch, patches, "pixel_values")
    total = 0.0
    for number, (question, answer) in enumerate(pairs):
        prompt, said = codec.prompt_ids(question), codec.answer_ids(answer)
        ids = torch.tensor([prompt + said])
        labels = torch.tensor([(-100,) * len(prompt) + said])
        out = tuned.model(input_ids=ids, pixel_values=patches[number : number + 1], labels=labels)
        total += float(out.loss.detach()) * len(said)
    assert float(ours.detach()) == pytest.approx(total, rel=1e-5)


def test_training_lowers_the_loss_and_only_the_trainable_tensors_move(tuned: TunedModel) -> None:
    frozen = {n: p.detach().clone() for n, p in tuned.model.named_parameters() if not p.requires_grad}
    first = train(tuned)
    later = train(tuned, difference=first.update, seed=10)
    assert later.loss_sum / later.loss_count < first.loss_sum / first.loss_count
    assert first.rows == len(ROWS)
    assert all(torch.equal(p, frozen[n]) for n, p in tuned.model.named_parameters() if n in frozen)
    assert all(np.any(first.update[span]) for slot, span in tuned.layout.spans() if "lora_A" not in slot.name)


def test_one_step_is_adamw_by_hand(tuned: TunedModel) -> None:
    rate = 1e-3
    update = train(tuned, LocalSettings(learning_rate=rate, batch_size=16, steps=1)).update
    moved = np.abs(update[update != 0])
    # the first step of Adam is lr * g / (|g| + eps): lr for every coordinate whose gradient is well above eps
    assert np.quantile(moved, 0.9) == pytest.approx(rate, rel=0.01)
    assert moved.max() <= rate * 1.001


def test_a_round_depends_on_state_and_generator_alone(tuned: TunedModel) -> None:
    one = train(tuned)
    other_seed = train(tuned, seed=11)
    again = train(tuned)
    assert np.array_equal(one.update, again.update)
    assert not np.array_equal(one.update, other_seed.update)


def test_update_is_relative_to_the_state_it_started_from(tuned: TunedModel) -> None:
    state = train(tuned).update
    update = train(tuned, difference=state, seed=12).update
    np.testing.assert_allclose(tuned.read_difference(), state + update, atol=1e-6)
    assert np.abs(update).max() < 6 * SETTINGS.learning_rate * 1.5


def test_diverged_training_is_refused_by_the_tensor_and_no_value(tuned: TunedModel) -> None:
    with torch.no_grad():
        tuned.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError) as caught:
        train(tuned)
    assert caught.value.code == "NON_FINITE_UPDATE"
    assert any(slot.name in caught.value.cause for slot in tuned.layout.slots)
    assert "nan" not in caught.value.cause.lower()


def test_training_that_moves_nothing_is_refused(tuned: TunedModel) -> None:
    with torch.no_grad():
        tuned.model.lm_head.weight.zero_()
    with pytest.raises(ModelError) as caught:
        train(tuned)
    assert caught.value.code == "ZERO_UPDATE"


def test_model_is_left_in_evaluation_mode_also_after_a_failure(tuned: TunedModel) -> None:
    with torch.no_grad():
        tuned.model.lm_head.weight.zero_()
    with pytest.raises(ModelError):
        train(tuned)
    assert not tuned.model.training


def test_steps_fill_batches_across_passes_and_epochs_see_each_row_once() -> None:
    by_steps = list(batch_orders(10, LocalSettings(1e-3, 4, steps=5), np.random.default_rng(0)))
    assert [len(order) for order in by_steps] == [4] * 5
    assert sorted(np.concatenate(by_steps).tolist()) == sorted([*range(10), *range(10)])
    by_epochs = list(batch_orders(10, LocalSettings(1e-3, 4, epochs=2), np.random.default_rng(0)))
    assert [len(order) for order in by_epochs] == [4, 4, 2, 4, 4, 2]
    assert sorted(np.concatenate(by_epochs[:3]).tolist()) == list(range(10))


def test_cosine_falls_over_the_rounds_and_never_to_zero() -> None:
    settings = LocalSettings(2e-3, 4, steps=1, schedule="cosine", rounds=4)
    rates = [settings.learning_rate_at(number) for number in (1, 2, 3, 4)]
    # 0.5 * (1 + cos(0, 45, 90, 135 degrees))
    np.testing.assert_allclose(rates, np.array([1.0, 0.8535534, 0.5, 0.1464466]) * 2e-3, rtol=1e-6)
    with pytest.raises(ValueError, match="round 5"):
        settings.learning_rate_at(5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"steps": 1, "epochs": 1},
        {"steps": None},
        {"batch_size": 0},
        {"weight_decay": -0.1},
        {"schedule": "linear"},
        {"augment": "rotate"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="local"):
        LocalSettings(**({"learning_rate": 1e-3, "batch_size": 4, "steps": 3} | wrong))


def test_shifted_pictures_are_the_picture_moved_with_its_border_repeated() -> None:
    picture = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(3, axis=3)
    allowed = {
        np.pad(picture[0, :, :, 0], 1, mode="edge")[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(3)
    }
    seen = {shift_pictures(picture, 1, np.random.default_rng(seed))[0, :, :, 0].tobytes() for seed in range(200)}
    assert seen == allowed
