"""What trains in the encoder-based base, that every node starts alike, and that its export needs nothing of ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration
from typer.testing import CliRunner

from fedvlm_secure.cli.models import app
from fedvlm_secure.vlm.adapters import LoraSettings, Strategy, TunedModel
from fedvlm_secure.vlm.base import fingerprint, load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SIDE, contract_rows
from fedvlm_secure.vlm.export import CONNECTOR_FILE, export_adapter
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

SHIPPED = shipped_base("tiny-llava")
CONNECTOR = 128 * 96 + 96 + 96 * 96 + 96
LORA_A = 2 * 8 * (6 * 96 + 192)  # q k v o gate up read 96 values, down reads 192; two layers of rank 8
LORA_B = 2 * 8 * (5 * 96 + 2 * 192)


def tuned(strategy: Strategy = "connector+lora", lora: LoraSettings | None = None, seed: int = 7) -> TunedModel:
    return TunedModel(load_base(SHIPPED), strategy=strategy, lora=lora or LoraSettings(), seed=seed)


def inputs() -> dict[str, torch.Tensor]:
    codec = PromptCodec(load_base(SHIPPED), derive_contract(contract_rows()))
    pictures = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    return {"input_ids": torch.tensor([codec.prompt_ids(SIDE)] * 2), "pixel_values": codec.pixels(pictures)}


@pytest.mark.parametrize(
    ("strategy", "factors", "coordinates"),
    [
        ("connector", "both", CONNECTOR),
        ("lora", "both", LORA_A + LORA_B),
        ("lora", "ffa", LORA_B),
        ("connector+lora", "both", CONNECTOR + LORA_A + LORA_B),
        ("connector+lora", "ffa", CONNECTOR + LORA_B),
    ],
)
def test_what_trains_is_what_the_strategy_says(strategy: Strategy, factors: str, coordinates: int) -> None:
    model = tuned(strategy, LoraSettings(factors=factors))  # type: ignore[arg-type]
    assert model.layout.dimension == coordinates
    assert sum(p.numel() for p in model.model.parameters() if p.requires_grad) == coordinates


def test_vision_encoder_embeddings_and_head_never_train() -> None:
    names = [slot.name for slot in tuned().layout.slots]
    assert {".".join(name.split(".")[:2]) for name in names} == {"model.multi_modal_projector", "model.language_model"}
    assert all("multi_modal_projector" in name or ".lora_" in name for name in names)


def test_two_nodes_agree_bit_for_bit_and_the_start_answers_as_the_base() -> None:
    first, second = tuned(), tuned()
    assert first.layout.digest == second.layout.digest
    assert all(torch.equal(a, b) for a, b in zip(first.trainable, second.trainable, strict=True))
    with torch.no_grad():
        assert torch.equal(load_base(SHIPPED).model(**inputs()).logits, first.model(**inputs()).logits)


@pytest.mark.parametrize("strategy", ["connector", "lora", "connector+lora"])
def test_plain_transformers_and_peft_give_equal_logits(strategy: Strategy, tmp_path: Path) -> None:
    model = tuned(strategy, LoraSettings(r=4, alpha=16.0))
    model.load_difference(np.random.default_rng(0).normal(0, 0.05, model.layout.dimension).astype(np.float32))
    written = export_adapter(model, tmp_path / "out")

    plain = LlavaForConditionalGeneration.from_pretrained(SHIPPED, dtype=torch.float32)
    before = plain(**inputs()).logits
    if "connector" in strategy:
        loaded = plain.load_state_dict(load_file(tmp_path / "out" / CONNECTOR_FILE), strict=False)
        assert not loaded.unexpected_keys
    if "lora" in strategy:
        plain = peft.PeftModel.from_pretrained(plain, str(tmp_path / "out"))
    with torch.no_grad():
        logits = plain(**inputs()).logits
        assert torch.equal(logits, model.model(**inputs()).logits)
    assert not torch.equal(logits, before)
    assert (CONNECTOR_FILE in {path.name for path in written}) == ("connector" in strategy)


def test_shipped_base_is_the_one_its_readme_names_and_both_are_small() -> None:
    assert fingerprint(SHIPPED) in (SHIPPED / "README.md").read_text()
    stored = {tensor.dtype for tensor in load_file(SHIPPED / "model.safetensors").values()}
    assert stored == {torch.float16}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_500_000
    assert sum(path.stat().st_size for path in SHIPPED.parent.glob("*/*")) < 6_000_000


def test_inspect_names_encoder_and_connector() -> None:
    said = json.loads(CliRunner().invoke(app, ["inspect", "tiny-llava", "--json"]).output)
    assert said["sha256"] == fingerprint(SHIPPED)
    assert said["vision_encoder"] == "model.vision_tower"
    assert said["connector"]["coordinates"] == CONNECTOR
    assert said["lora_targets"] == 14
