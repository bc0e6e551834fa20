"""`fedvlm models`: build the small bases and look at what would be trained in a model."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from fedvlm_secure import canonical, console
from fedvlm_secure.errors import DataError, ModelError, PolicyError

if TYPE_CHECKING:
    from fedvlm_secure.train.pretrain import FormatItems
    from fedvlm_secure.vlm.contract import Contract
    from fedvlm_secure.vlm.data.rows import HospitalData, Row

app = typer.Typer(help="Small base models from configs; what would be trained in a model.", no_args_is_help=True)

_CALIBRATION_PICTURES = 4000


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="tiny-fuyu (encoder-free) or tiny-llava (encoder-based).")],
    out: Annotated[Path, typer.Option("--out", help="Directory to write.")],
    public: Annotated[
        list[Path] | None, typer.Option("--public", help="Folder of public *.jsonl data; may be repeated.")
    ] = None,
    contract: Annotated[
        Path | None, typer.Option("--contract", help="Folder whose train rows give questions and answer vocabulary.")
    ] = None,
    normalisation: Annotated[
        str | None, typer.Option("--normalisation", help="unit or standard; without it the one of the model's recipe.")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps of 64 items.")] = 1440,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="CPU threads; with 1 the same machine gives the same bits.")
    ] = 1,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Pre-train a small base on public data.

    Without --public: on seeded calibration phantoms, for the questions of the hospitals' phantoms. With --public and
    --contract: on those packs, for the questions of the given data, of which no picture and no answer to a picture
    is used.
    """
    import torch

    from fedvlm_secure.train.pretrain import Pretraining, format_items, pretrain_base, save_base
    from fedvlm_secure.vlm.base import fingerprint
    from fedvlm_secure.vlm.contract import derive_contract
    from fedvlm_secure.vlm.tiny_models import tiny_model

    tiny = tiny_model(name)
    if normalisation not in (None, "unit", "standard"):
        raise PolicyError("OPTION_WRONG", "--normalisation is unit or standard", "")
    if bool(public) != (contract is not None):
        raise PolicyError("OPTION_WRONG", "--public and --contract belong together", "give both or neither")
    size = tiny.image_size
    learnt, wanted = _packs(public, contract, size) if public and contract else _phantoms(seed, size)
    agreed: Contract = derive_contract(wanted, image_size=size, normalisation=normalisation or tiny.normalisation)  # type: ignore[arg-type]
    known: FormatItems = format_items(wanted)
    started = time.monotonic()
    torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        base = pretrain_base(
            tiny,
            learnt,
            known,
            agreed,
            Pretraining(steps=steps),
            rng=_generator("base weights and batches", seed),
            progress=_progress(steps, json_lines),
        )
    save_base(base, out, half=tiny.half)
    (out / "contract.json").write_text(json.dumps(vars(agreed), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _say(
        {
            "base": str(out),
            "sha256": fingerprint(out),
            "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
            "public_rows": len(learnt.rows),
            "seconds": round(time.monotonic() - started, 1),
        },
        json_lines,
    )


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="Hugging Face model directory, or the name of a shipped base.")],
    r: Annotated[int, typer.Option("--r", min=1, help="LoRA rank.")] = 8,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Fingerprint, parts, and for each strategy how many coordinates would train and how many bytes a round sends."""
    from fedvlm_secure.vlm.adapters import STRATEGIES, LoraSettings, TunedModel
    from fedvlm_secure.vlm.base import load_base, shipped_base
    from fedvlm_secure.vlm.parts import find_parts

    found = directory if directory.is_dir() else shipped_base(str(directory))
    base = load_base(found)
    parts = find_parts(base.model)
    shown: dict[str, object] = {
        "sha256": base.fingerprint,
        "family": base.model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "vision_encoder": parts.encoder or "none (encoder-free)",
        "language_model": parts.decoder,
        "connector_parameters": list(parts.connector) or parts.connector_missing,
        "lora_targets": len(parts.lora_targets),
    }
    for strategy in STRATEGIES:
        try:
            layout = TunedModel(load_base(found), strategy=strategy, lora=LoraSettings(r=r), seed=0).layout
        except ModelError as error:
            shown[strategy] = f"refused: {error.cause}"
            continue
        words = -(-layout.dimension // 3)
        shown[strategy] = {
            "coordinates": layout.dimension,
            "layout": layout.digest.hex(),
            "bytes_plain_float32": 4 * layout.dimension,
            "bytes_masked_three_lanes": 8 * words,
        }
    _say(shown, json_lines)


def _packs(public: list[Path], contract: Path, image_size: int) -> tuple[HospitalData, list[Row]]:
    """Train rows of the public packs, and the train rows whose questions and answers become the contract."""
    from fedvlm_secure.vlm.data.rows import HospitalData, merge_data

    if contract.resolve() in {folder.resolve() for folder in public}:
        raise PolicyError(
            "OPTION_WRONG",
            f"{contract.name} is both public and the federation's",
            "a base must not know its task",
        )
    whole = merge_data([source for folder in public for source in _folder(folder, image_size)])
    kept = tuple(row for row in whole.rows if row.split != "test")
    wanted = [row for source in _folder(contract, image_size) for row in source.rows if row.split != "test"]
    return HospitalData(kept, whole.pictures), wanted


def _folder(folder: Path, image_size: int) -> list[HospitalData]:
    from fedvlm_secure.vlm.data.jsonl import load_jsonl
    from fedvlm_secure.vlm.data.rows import SCORED_TASKS

    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise DataError("DATA_MISSING", f"{folder}: no *.jsonl file", "give a folder as a hospital would have it")
    return [load_jsonl(path, image_size=image_size, tasks=SCORED_TASKS) for path in files]


def _phantoms(seed: int, image_size: int) -> tuple[HospitalData, list[Row]]:
    """Calibration phantoms to learn from, and the questions of the hospitals' phantoms (no picture of theirs)."""
    from fedvlm_secure.vlm.data.calibration import draw_calibration
    from fedvlm_secure.vlm.data.phantoms import contract_rows

    rng = _generator("public calibration phantoms", seed)
    return draw_calibration(pictures=_CALIBRATION_PICTURES, image_size=image_size, rng=rng), contract_rows()


def _generator(label: str, seed: int) -> np.random.Generator:
    """A generator of its own for each label: no seed of a hospital's phantoms can give the same stream."""
    raw = hashlib.sha256(canonical.encode(["models build", label, seed])).digest()
    return np.random.default_rng(int.from_bytes(raw, "big"))


def _progress(steps: int, json_lines: bool) -> Callable[[int, float], None]:
    started = time.monotonic()

    def show(step: int, loss: float) -> None:
        if step % max(1, steps // 20) == 0 or step == steps:
            seconds = round(time.monotonic() - started, 1)
            if json_lines:
                console.emit_json({"step": step, "steps": steps, "loss": round(loss, 4), "seconds": seconds})
            else:
                console.say(f"step {step}/{steps}  loss {loss:.3f}  {seconds:.0f} s")

    return show


def _say(record: dict[str, object], json_lines: bool) -> None:
    if json_lines:
        console.emit_json(record)
        return
    for name, value in record.items():
        console.say(f"{name}: {value}")
