"""What is handed over works without this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import FuyuForCausalLM

from fedvlm_secure.vlm.adapters import LoraSettings, Strategy, TunedModel
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.export import CONNECTOR_FILE, export_adapter

SHIPPED = shipped_base("tiny-fuyu")


@pytest.mark.parametrize("strategy", ["connector", "lora", "connector+lora"])
def test_plain_transformers_and_peft_give_equal_logits(strategy: Strategy, tmp_path: Path) -> None:
    tuned = TunedModel(load_base(SHIPPED), strategy=strategy, lora=LoraSettings(r=4, alpha=16.0), seed=5)
    difference = np.random.default_rng(0).normal(0, 0.05, tuned.layout.dimension).astype(np.float32)
    tuned.load_difference(difference)
    written = export_adapter(tuned, tmp_path / "out")

    plain = FuyuForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32)
    before = plain(**inputs()).logits
    if "connector" in strategy:
        loaded = plain.load_state_dict(load_file(tmp_path / "out" / CONNECTOR_FILE), strict=False)
        assert not loaded.unexpected_keys
    if "lora" in strategy:
        plain = peft.PeftModel.from_pretrained(plain, str(tmp_path / "out"))
    with torch.no_grad():
        logits = plain(**inputs()).logits
        assert torch.equal(logits, tuned.model(**inputs()).logits)
    assert not torch.equal(logits, before)
    assert (CONNECTOR_FILE in {path.name for path in written}) == ("connector" in strategy)


def test_nothing_written_names_a_path_of_this_machine(tmp_path: Path) -> None:
    tuned = TunedModel(load_base(SHIPPED), strategy="connector+lora", lora=LoraSettings(), seed=5)
    for path in export_adapter(tuned, tmp_path / "out"):
        assert str(SHIPPED.parent).encode() not in path.read_bytes()


def inputs() -> dict[str, torch.Tensor]:
    pixels = torch.linspace(-1, 1, 4 * 768).reshape(1, 4, 768)
    return {"input_ids": torch.tensor([[1, 1, 1, 1, 60, 70, 2]]), "pixel_values": pixels}
