"""A base is built from public pictures by a seed, loads again, and its command writes what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedvlm_secure.cli.models import app
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.train.pretrain import Pretraining, format_items, pretrain_base, save_base
from fedvlm_secure.vlm.base import fingerprint, load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.calibration import draw_calibration
from fedvlm_secure.vlm.data.phantoms import contract_rows
from fedvlm_secure.vlm.tiny_models import TINY_FUYU


def build(seed: int) -> tuple[list[float], object]:
    losses: list[float] = []
    base = pretrain_base(
        TINY_FUYU,
        draw_calibration(pictures=40, image_size=32, rng=np.random.default_rng(1)),
        format_items(contract_rows()),
        derive_contract(contract_rows()),
        Pretraining(steps=12, batch_size=16),
        rng=np.random.default_rng(seed),
        progress=lambda step, loss: losses.append(loss),
    )
    return losses, base


def test_same_seed_gives_the_same_losses_and_the_loss_falls() -> None:
    first, again, other = build(1)[0], build(1)[0], build(2)[0]
    assert first == again != other
    assert np.mean(first[-3:]) < np.mean(first[:3])


def test_a_saved_base_loads_with_its_own_fingerprint(tmp_path: Path) -> None:
    _, base = build(1)
    save_base(base, tmp_path / "base")  # type: ignore[arg-type]
    loaded = load_base(tmp_path / "base", sha256=fingerprint(tmp_path / "base"))
    ids = base.tokenizer.encode(" enlarged heart").ids  # type: ignore[attr-defined]
    assert loaded.tokenizer.encode(" enlarged heart").ids == ids
    assert all((path.stat().st_mode & 0o777) == 0o644 for path in (tmp_path / "base").iterdir())


def test_format_items_hold_questions_and_allowed_answers_and_no_picture() -> None:
    items = format_items(contract_rows())
    assert len(items.questions) == 4
    assert all(set(allowed) <= set(items.answers) for _, allowed in items.questions)


def test_command_builds_from_packs_and_says_the_fingerprint(tmp_path: Path) -> None:
    for pack, answers in (("public", ("cat", "dog")), ("own", ("fish", "bird"))):
        (tmp_path / pack).mkdir()
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / pack / "i.png")
        rows = [
            {
                "image": "i.png",
                "question": f"{word}?",
                "answer": word,
                "task": "vqa",
                "patient": word,
                "split": side,
            }
            for word, side in zip(answers, ("train", "test"), strict=True)
        ]
        (tmp_path / pack / "h.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    options = ["--public", str(tmp_path / "public"), "--contract", str(tmp_path / "own"), "--steps", "2", "--json"]
    result = CliRunner().invoke(app, ["build", "tiny-fuyu", "--out", str(tmp_path / "base"), *options])
    assert result.exit_code == 0, result.output
    said = json.loads(result.output.splitlines()[-1])
    assert said["sha256"] == fingerprint(tmp_path / "base")
    assert said["public_rows"] == 1  # the public pack's test row is not learnt
    contract = json.loads((tmp_path / "base" / "contract.json").read_text())
    assert contract["vocabulary"] == ["fish"]  # nor is the test row of the federation looked at


def test_a_pack_cannot_be_public_and_the_federations(tmp_path: Path) -> None:
    same = str(shutil.copytree(shipped_base("tiny-fuyu"), tmp_path / "same"))
    options = ["--public", same, "--contract", same]
    result = CliRunner().invoke(app, ["build", "tiny-fuyu", "--out", str(tmp_path / "base"), *options])
    assert isinstance(result.exception, PolicyError)


@pytest.mark.parametrize("name", ["tiny-fuyu"])
def test_inspect_counts_coordinates_and_bytes_per_round(name: str) -> None:
    result = CliRunner().invoke(app, ["inspect", name, "--json"])
    said = json.loads(result.output)
    assert said["sha256"] == fingerprint(shipped_base(name))
    assert said["connector+lora"]["coordinates"] == 95328
    assert said["connector+lora"]["bytes_masked_three_lanes"] / said["connector+lora"]["bytes_plain_float32"] < 0.67
