"""A base model from a local Hugging Face directory: safetensors only, no code from it, pinned by fingerprint.

Fingerprint = SHA-256 of the canonical encoding (label `fedvlm/v1/base-model`) of three things: the list of
(tensor name, stored dtype, shape, SHA-256 of the stored bytes) sorted by name; config.json as a map without
`transformers_version` and `_name_or_path`, which say who saved it and not what it is; SHA-256 of tokenizer.json.
It does not depend on how tensors are ordered or sharded, on white space in config.json, or on torch.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvlm_secure import canonical
from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.families.registry import FAMILIES

_MAX_HEADER_BYTES = 100_000_000
_VOLATILE = ("transformers_version", "_name_or_path")
SHIPPED = Path(__file__).parent / "bases"


@dataclass(eq=False)
class LoadedBase:
    """A base model in memory, all weights frozen and float32, in evaluation mode.

    Args:
        name: the directory's own name, for messages and exports (no path).
        model: `PreTrainedModel`.
        tokenizer: `tokenizers.Tokenizer`.
        fingerprint: 64 hexadecimal digits.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str


def shipped_base(name: str) -> Path:
    """Directory of a base that comes with the package.

    Raises:
        ModelError: BASE_MISSING.
    """
    directory = SHIPPED / name
    if "/" in name or not (directory / "config.json").is_file():
        known = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []
        raise ModelError("BASE_MISSING", f"no base named {name!r} comes with the package", f"known: {', '.join(known)}")
    return directory


def fingerprint(directory: Path) -> str:
    """Fingerprint of a model directory, as the module's docstring defines it; needs no torch.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModelError: BASE_MISSING, BASE_BROKEN or BASE_NOT_SAFETENSORS.
    """
    config = _read_json(directory / "config.json")
    tensors: dict[str, list[object]] = {}
    for path in _weight_files(directory):
        for name, record in _tensor_records(path):
            if name in tensors:
                raise ModelError(
                    "BASE_BROKEN", f"{path.name}: the tensor {name} is in two files", "save the base again"
                )
            tensors[name] = [name, *record]
    try:
        tokenizer = hashlib.sha256((directory / "tokenizer.json").read_bytes()).digest()
    except OSError as error:
        raise ModelError(
            "BASE_MISSING", f"{directory.name}: no readable tokenizer.json", "save a fast tokenizer"
        ) from error
    lasting = {name: value for name, value in config.items() if name not in _VOLATILE}
    return canonical.digest("base-model", [tensors[name] for name in sorted(tensors)], lasting, tokenizer).hex()


def load_base(directory: Path, *, sha256: str | None = None, device: str = "cpu") -> LoadedBase:
    """Load a base for tuning.

    Args:
        directory: local directory with config.json, safetensors weights and tokenizer.json.
        sha256: the fingerprint that the policy pins; None loads whatever is there (studies, `models inspect`).
        device: where the weights lie from now on (`vlm.device`). Adapters are made after this move, never before it:
            moving them would leave hooks and optimizer with tensors that the model no longer uses.

    Raises:
        ModelError: BASE_FINGERPRINT when it differs from the pinned one; BASE_MISSING, BASE_BROKEN,
            BASE_NOT_SAFETENSORS, or BASE_FAMILY when transformers has no image-text class for it.
    """
    found = fingerprint(directory)
    if sha256 is not None and found != sha256:
        raise ModelError(
            "BASE_FINGERPRINT",
            f"base {directory.name}: fingerprint {found[:16]}..., the policy pins {sha256[:16]}...",
            "get the base that the policy names, or approve a policy that pins yours (`fedvlm models inspect DIR`)",
        )
    import torch
    from tokenizers import Tokenizer

    quiet_progress()
    model = _model_class(directory).from_pretrained(
        str(directory), dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    model.config._name_or_path = directory.name  # a path of this machine goes into no file that is handed over
    model.eval()
    model.requires_grad_(False)
    model.to(device)
    return LoadedBase(directory.name, model, Tokenizer.from_file(str(directory / "tokenizer.json")), found)


def quiet_progress() -> None:
    """No progress bar for the second that a small model takes; services write one JSON object a line instead."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _model_class(directory: Path) -> Any:
    family = _read_json(directory / "config.json").get("model_type")
    known = FAMILIES.get(str(family))
    if known is not None:
        return known.model_class()
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        raise ModelError(
            "BASE_FAMILY", f"transformers does not know the family {str(family)[:60]!r}", "use a newer transformers"
        ) from error
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ModelError("BASE_FAMILY", f"the family {family!r} is not an image-text model", "use an image-text model")
    return AutoModelForImageTextToText


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            "BASE_MISSING", f"{path.parent.name}/{path.name}: {error.strerror}", "give a Hugging Face model directory"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError("BASE_BROKEN", f"{path.parent.name}/{path.name}: not JSON", "copy the base again") from error
    if not isinstance(value, dict):
        raise ModelError("BASE_BROKEN", f"{path.parent.name}/{path.name}: not a JSON object", "copy the base again")
    return value


def _weight_files(directory: Path) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelError(
            "BASE_NOT_SAFETENSORS", f"{directory.name}: no model.safetensors", "convert the weights to safetensors"
        )
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, Mapping) or any("/" in str(shard) for shard in shards.values()):
        raise ModelError("BASE_BROKEN", f"{directory.name}: the index has no usable weight_map", "copy the base again")
    return [directory / name for name in sorted(set(shards.values()))]


def _tensor_records(path: Path) -> list[tuple[str, tuple[str, list[int], bytes]]]:
    """(name, (dtype, shape, SHA-256 of the bytes)) of one safetensors file.

    Source: safetensors format: u64 little-endian header size, JSON header with data_offsets, then the buffer.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            (size,) = struct.unpack("<Q", raw[:8])
            if size > _MAX_HEADER_BYTES:
                raise ValueError("header too large")
            header = json.loads(raw[8 : 8 + size])
            start, records = 8 + size, []
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                first, last = entry["data_offsets"]
                if not 0 <= first <= last <= len(raw) - start:
                    raise ValueError("offset outside the file")
                with memoryview(raw) as view, view[start + first : start + last] as data:
                    records.append((name, (entry["dtype"], list(entry["shape"]), hashlib.sha256(data).digest())))
            return records
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError("BASE_BROKEN", f"{path.name}: not a whole safetensors file", "copy the base again") from error
