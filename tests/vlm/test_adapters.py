"""All nodes train the same tensors from the same start, and a state is a difference from it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.adapters import STRATEGIES, LoraSettings, Strategy, TunedModel, canonical_name
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.start import orthogonal_start, uniform_start


def tuned(strategy: Strategy = "connector+lora", lora: LoraSettings | None = None, seed: int = 7) -> TunedModel:
    return TunedModel(load_base(shipped_base("tiny-fuyu")), strategy=strategy, lora=lora or LoraSettings(), seed=seed)


@pytest.mark.parametrize(
    ("strategy", "factors", "coordinates"),
    [
        ("connector", "both", 768 * 96 + 96),
        ("lora", "both", 2 * 8 * ((96 + 288) + (96 + 96) + (96 + 288) + (288 + 96))),
        ("lora", "ffa", 2 * 8 * (288 + 96 + 288 + 96)),
        ("connector+lora", "both", 768 * 96 + 96 + 21504),
    ],
)
def test_what_trains_is_what_the_strategy_says(strategy: Strategy, factors: str, coordinates: int) -> None:
    model = tuned(strategy, LoraSettings(factors=factors))  # type: ignore[arg-type]
    assert model.layout.dimension == coordinates
    assert sum(p.numel() for p in model.model.parameters() if p.requires_grad) == coordinates
    assert all(parameter.dtype == torch.float32 for parameter in model.trainable)


def test_head_and_embeddings_never_train() -> None:
    names = [slot.name for strategy in STRATEGIES for slot in tuned(strategy).layout.slots]
    assert not any("lm_head" in name or name[-19:] == "embed_tokens.weight" for name in names if "vision" not in name)


def test_names_carry_no_wrapping_of_peft() -> None:
    names = [slot.name for slot in tuned().layout.slots]
    assert names == sorted(names)
    assert not any(word in name for name in names for word in ("base_model", "default", "modules_to_save"))
    assert canonical_name("base_model.model.x.q.lora_A.default.weight") == "x.q.lora_A.weight"


def test_two_nodes_agree_bit_for_bit_and_another_seed_differs() -> None:
    first, second, other = tuned(seed=7), tuned(seed=7), tuned(seed=8)
    assert first.layout.digest == second.layout.digest == other.layout.digest
    assert all(torch.equal(a, b) for a, b in zip(first.trainable, second.trainable, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.trainable, other.trainable, strict=True))


def test_start_does_not_depend_on_the_global_torch_seed() -> None:
    torch.manual_seed(1)
    first = tuned()
    torch.manual_seed(2)
    second = tuned()
    assert all(torch.equal(a, b) for a, b in zip(first.trainable, second.trainable, strict=True))


def test_the_start_answers_exactly_as_the_base() -> None:
    base, model = load_base(shipped_base("tiny-fuyu")).model, tuned().model
    ids = torch.tensor([[1, 1, 1, 1, 60, 70, 2]])
    pixels = torch.linspace(-1, 1, 4 * 768).reshape(1, 4, 768)
    with torch.no_grad():
        plain = base(input_ids=ids, pixel_values=pixels).logits
        assert torch.equal(plain, model(input_ids=ids, pixel_values=pixels).logits)


def test_difference_is_zero_at_the_start_and_is_read_back_as_loaded() -> None:
    model = tuned()
    assert not model.read_difference().any()
    wanted = ((np.arange(model.layout.dimension) % 11 - 5) / 64).astype(np.float32)
    model.load_difference(wanted)
    np.testing.assert_allclose(model.read_difference(), wanted, atol=1e-6)
    model.load_difference(np.zeros_like(wanted))
    assert not model.read_difference().any()


def test_a_coordinate_lands_in_the_tensor_that_the_layout_names() -> None:
    model = tuned()
    for slot, span in model.layout.spans():
        difference = np.zeros(model.layout.dimension, np.float32)
        difference[span.start] = 1.0
        before = model.model.get_parameter(_wrapped(model, slot.name)).detach().clone()
        model.load_difference(difference)
        after = model.model.get_parameter(_wrapped(model, slot.name)).detach()
        moved = (after - before).reshape(-1)
        assert abs(float(moved[0]) - 1.0) < 1e-6
        assert not moved[1:].any()
        model.load_difference(np.zeros_like(difference))


def _wrapped(model: TunedModel, name: str) -> str:
    return next(str(full) for full, _ in model.model.named_parameters() if canonical_name(full) == name)


@pytest.mark.parametrize("bad", [np.zeros(3, np.float32), np.zeros(95328, np.float64)])
def test_a_state_of_another_shape_or_type_is_our_bug(bad: Any) -> None:
    with pytest.raises(ValueError, match="float32"):
        tuned().load_difference(bad)


def test_a_state_that_is_not_finite_names_the_tensor_and_no_value() -> None:
    model = tuned()
    broken = np.zeros(model.layout.dimension, np.float32)
    broken[-1] = np.inf
    with pytest.raises(ModelError) as caught:
        model.load_difference(broken)
    assert caught.value.code == "NON_FINITE_STATE"
    assert model.layout.slots[-1].name in caught.value.cause
    assert "inf" not in caught.value.cause


def test_ffa_factors_are_orthogonal_and_stay_frozen() -> None:
    a = orthogonal_start(3, "layer.lora_A.weight", 8, 96).astype(np.float64)
    np.testing.assert_allclose(a @ a.T, np.eye(8) / 3.0, atol=1e-6)
    model = tuned("lora", LoraSettings(factors="ffa"))
    assert all("lora_B" in slot.name for slot in model.layout.slots)


def test_uniform_start_has_the_bounds_and_spread_of_kaiming() -> None:
    drawn = uniform_start(3, "layer.lora_A.weight", 64, 400)
    assert np.abs(drawn).max() <= 1 / 20
    assert abs(drawn.std() - 1 / 20 / np.sqrt(3)) < 5e-4
    assert abs(drawn.mean()) < 5e-4


def test_rank_above_the_width_has_no_orthogonal_start() -> None:
    with pytest.raises(ValueError, match="rank 9"):
        orthogonal_start(3, "x", 9, 8)


def test_importing_the_packages_loads_no_torch() -> None:
    code = "import sys, fedvlm_secure.vlm, fedvlm_secure.train, fedvlm_secure.vlm.base, fedvlm_secure.train.settings;"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
