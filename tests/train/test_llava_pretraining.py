"""The encoder-based base is built by a seed, and the stored half of the precision is the whole base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from fedvlm_secure.cli.models import app
from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.pretrain import Pretraining, format_items, pretrain_base, save_base
from fedvlm_secure.vlm.base import LoadedBase, fingerprint, load_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.calibration import draw_calibration
from fedvlm_secure.vlm.data.phantoms import contract_rows
from fedvlm_secure.vlm.tiny_models import TINY_LLAVA


def build(seed: int, directory: Path) -> tuple[list[float], LoadedBase]:
    losses: list[float] = []
    base = pretrain_base(
        TINY_LLAVA,
        draw_calibration(pictures=40, image_size=32, rng=np.random.default_rng(1)),
        format_items(contract_rows()),
        derive_contract(contract_rows(), normalisation="standard"),
        Pretraining(steps=12, batch_size=16),
        rng=np.random.default_rng(seed),
        progress=lambda step, loss: losses.append(loss),
    )
    save_base(base, directory, half=True)
    return losses, base


def test_same_seed_gives_the_same_base_whatever_torch_was_seeded_with(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first, _ = build(1, tmp_path / "first")
    torch.manual_seed(2)
    again, _ = build(1, tmp_path / "again")
    other, _ = build(2, tmp_path / "other")
    assert first == again != other
    assert np.mean(first[-3:]) < np.mean(first[:3])
    assert fingerprint(tmp_path / "first") == fingerprint(tmp_path / "again") != fingerprint(tmp_path / "other")


def test_nothing_is_lost_by_storing_half_precision(tmp_path: Path) -> None:
    _, base = build(1, tmp_path / "base")
    loaded = load_base(tmp_path / "base", sha256=fingerprint(tmp_path / "base"))
    stored = dict(loaded.model.named_parameters())
    assert all(torch.equal(parameter, stored[name]) for name, parameter in base.model.named_parameters())
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}
    assert (tmp_path / "base" / "model.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in stored.values())


def test_command_builds_from_packs_with_the_recipes_normalisation(tmp_path: Path) -> None:
    for pack, word in (("public", "cat"), ("own", "fish")):
        (tmp_path / pack).mkdir()
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / pack / "i.png")
        row = {"image": "i.png", "question": f"{word}?", "answer": word, "task": "vqa", "patient": word}
        (tmp_path / pack / "h.jsonl").write_text(json.dumps(row))
    options = ["--public", str(tmp_path / "public"), "--contract", str(tmp_path / "own"), "--steps", "2", "--json"]
    result = CliRunner().invoke(app, ["build", "tiny-llava", "--out", str(tmp_path / "base"), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output.splitlines()[-1])["sha256"] == fingerprint(tmp_path / "base")
    contract = json.loads((tmp_path / "base" / "contract.json").read_text())
    assert (contract["vocabulary"], contract["normalisation"]) == (["fish"], "standard")


def test_a_base_that_no_recipe_builds_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["build", "giant-llava", "--out", str(tmp_path / "base")])
    assert isinstance(result.exception, ModelError)
    assert "tiny-fuyu or tiny-llava" in result.exception.hint
