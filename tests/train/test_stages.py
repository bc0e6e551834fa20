"""`two-stage`: the round number alone says what trains, and the rest does not move in its last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from peft.tuners.lora import LoraLayer

from fedvlm_secure.train.plain import train_plain, trains
from fedvlm_secure.train.settings import LocalSettings
from fedvlm_secure.types import Float32Vector
from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

CONTRACT = derive_contract(contract_rows())
DATA = draw_hospital(SITES["coast"], patients=20, image_size=32, name="coast", rng=np.random.default_rng(3))
ROWS = tuple(row for row in DATA.rows if row.task in ("vqa", "classification"))
SETTINGS: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 16, "steps": 3, "rounds": 4, "connector_rounds": 2}


@pytest.fixture(scope="module")
def tuned() -> TunedModel:
    base = load_base(shipped_base("tiny-fuyu"))
    return TunedModel(base, strategy="connector+lora", lora=LoraSettings(), seed=1)


def update(tuned: TunedModel, round_number: int, difference: Float32Vector, **changes: Any) -> Float32Vector:
    return train_plain(
        tuned, PromptCodec(tuned.base, CONTRACT), ROWS, DATA.pictures,
        LocalSettings(**{**SETTINGS, **changes}),
        round_number=round_number, difference=difference, rng=np.random.default_rng(9),
    ).update  # fmt: skip


def is_lora(tuned: TunedModel) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Per coordinate; from PEFT's own layers, not by name."""
    layers = [module for module in tuned.model.modules() if isinstance(module, LoraLayer)]
    adapted = {id(p) for layer in layers for part in (layer.lora_A, layer.lora_B) for p in part.parameters()}
    marks = np.zeros(tuned.layout.dimension, dtype=bool)
    for (_, span), parameter in zip(tuned.layout.spans(), tuned.trainable, strict=True):
        marks[span] = id(parameter) in adapted
    return marks


@pytest.mark.parametrize(("round_number", "lora_trains"), [(1, False), (2, False), (3, True), (4, True)])
@pytest.mark.parametrize("mu", [0.0, 10.0])
def test_what_a_round_does_not_train_is_exactly_zero_in_its_update(
    tuned: TunedModel, round_number: int, lora_trains: bool, mu: float
) -> None:
    state = np.random.default_rng(4).normal(0, 1e-3, tuned.layout.dimension).astype(np.float32)
    moved = update(tuned, round_number, state, proximal_mu=mu, weight_decay=0.1)
    lora = is_lora(tuned)
    assert 0 < lora.sum() < len(lora)
    assert not moved[lora != lora_trains].any()
    assert np.mean(moved[lora == lora_trains] != 0) > 0.5


def test_after_a_staged_round_everything_trains_again_where_no_stage_is_asked_for(tuned: TunedModel) -> None:
    state = np.zeros(tuned.layout.dimension, np.float32)
    fresh = update(tuned, 1, state, connector_rounds=None)
    update(tuned, 1, state)
    update(tuned, 3, state)
    assert np.array_equal(update(tuned, 1, state, connector_rounds=None), fresh)
    assert all(parameter.requires_grad for parameter in tuned.trainable)


def test_a_failed_round_leaves_every_tensor_trainable(tuned: TunedModel) -> None:
    with pytest.raises(TypeError):
        train_plain(
            tuned, PromptCodec(tuned.base, CONTRACT), ROWS, None,  # type: ignore[arg-type]
            LocalSettings(**SETTINGS),
            round_number=3, difference=np.zeros(tuned.layout.dimension, np.float32), rng=np.random.default_rng(9),
        )  # fmt: skip
    assert all(parameter.requires_grad for parameter in tuned.trainable)
    assert not tuned.model.training


def test_stages_share_the_tensors_out_between_them(tuned: TunedModel) -> None:
    names = [slot.name for slot in tuned.layout.slots]
    assert all(trains(name, "connector") != trains(name, "lora") and trains(name, None) for name in names)


def test_the_first_stage_has_at_least_one_round() -> None:
    with pytest.raises(ValueError, match="connector_rounds"):
        LocalSettings(learning_rate=1e-3, batch_size=1, steps=1, connector_rounds=-1)
