"""Which models may train under DP-SGD, and why others may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train import admission
from fedvlm_secure.train.admission import admit
from fedvlm_secure.train.private_gradients import RowGradients
from fedvlm_secure.vlm.adapters import Factors, LoraSettings, Strategy, TunedModel
from fedvlm_secure.vlm.base import LoadedBase
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import contract_rows
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from fedvlm_secure.vlm.tiny_models import TINY_LLAVA
from fedvlm_secure.vlm.vocabulary import train_tokenizer
from tests.train.private_bench import CONTRACT, ROWS, row_loss, tuned_model


def admitted(tuned: TunedModel) -> float:
    return admit(tuned, PromptCodec(tuned.base, CONTRACT), CONTRACT)


@pytest.mark.parametrize(
    ("strategy", "factors"), [("lora", "ffa"), ("lora", "both"), ("connector", "ffa"), ("connector+lora", "both")]
)
def test_tiny_fuyu_equals_a_loop_over_single_rows(strategy: Strategy, factors: Factors) -> None:
    assert admitted(tuned_model(strategy, factors)) < 1e-5


@pytest.mark.parametrize("strategy", ["lora", "connector", "connector+lora"])
def test_a_model_with_vision_encoder_and_two_layer_connector_is_admitted_too(strategy: Strategy) -> None:
    tiny = TINY_LLAVA
    contract = derive_contract(contract_rows(), image_size=tiny.image_size, normalisation=tiny.normalisation)
    tokenizer = train_tokenizer(sorted(f"{row.question} {row.answer}" for row in contract_rows()), marks=tiny.marks)
    base = LoadedBase(tiny.name, tiny.untrained(tokenizer, np.random.default_rng(1)), tokenizer, "")
    tuned = TunedModel(base, strategy=strategy, lora=LoraSettings(r=4, factors="both"), seed=1)
    assert admit(tuned, PromptCodec(base, contract), contract) < 1e-5


def refused(tuned: TunedModel) -> ModelError:
    with pytest.raises(ModelError) as caught:
        admitted(tuned)
    return caught.value


def body(tuned: TunedModel) -> Any:
    return getattr(tuned.model, tuned.model.base_model_prefix)


def test_batch_normalisation_is_refused_by_name() -> None:
    tuned = tuned_model()
    body(tuned).extra = nn.BatchNorm1d(4)
    error = refused(tuned)
    assert error.code == "DP_FAMILY_REFUSED"
    assert "extra" in error.cause


def test_rows_that_look_at_each_other_are_refused() -> None:
    tuned = tuned_model("connector")
    layer = body(tuned).vision_embed_tokens
    layer.register_forward_hook(lambda module, given, out: out + 0.1 * out.mean(0, keepdim=True))
    assert refused(tuned).code == "DP_FAMILY_REFUSED"


def test_chance_in_the_loss_is_refused() -> None:
    tuned = tuned_model("connector")
    torch.manual_seed(0)
    layer = body(tuned).vision_embed_tokens
    layer.register_forward_hook(lambda module, given, out: nn.functional.dropout(out, 0.5))
    assert refused(tuned).code == "DP_FAMILY_REFUSED"


class Flattening(nn.Module):
    """A connector that sees a list of patches and not rows, as Qwen2.5-VL's merger does."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(pixels.reshape(-1, pixels.shape[-1]))
        return out.reshape(*pixels.shape[:-1], -1)


def test_a_layer_that_sees_patches_as_rows_is_refused_at_every_step() -> None:
    tuned = tuned_model("connector")
    body(tuned).vision_embed_tokens = Flattening(body(tuned).vision_embed_tokens)
    assert refused(tuned).code == "DP_ROWS_MIXED"
    with RowGradients(row_loss(tuned)) as gradients, pytest.raises(ModelError) as caught:
        gradients.of(ROWS[:3])
    assert caught.value.code == "DP_ROWS_MIXED"
    assert "vision_embed_tokens" in caught.value.cause


def test_a_tensor_that_no_row_reaches_is_refused() -> None:
    tuned = tuned_model("connector")
    layer = body(tuned).vision_embed_tokens
    layer.register_forward_hook(lambda module, given, out: out.detach())
    with RowGradients(row_loss(tuned)) as gradients, pytest.raises((ModelError, RuntimeError)):
        gradients.of(ROWS[:3])


def test_a_trained_layer_with_running_statistics_is_refused_by_opacus() -> None:
    tuned = tuned_model("connector")
    body(tuned).vision_embed_tokens.register_buffer("running", torch.zeros(1))
    assert refused(tuned).code == "DP_LAYER_REFUSED"


def test_a_model_without_any_gradient_counts_as_untested() -> None:
    assert admission._relative_error(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)) == float("inf")
