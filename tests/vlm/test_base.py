"""A base is what its fingerprint says, and nothing else is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedvlm_secure import canonical
from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.base import fingerprint, load_base, shipped_base

SHIPPED = shipped_base("tiny-fuyu")
HEAD = "language_model.lm_head.weight"  # the name in a Fuyu file


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "base"))


def test_fingerprint_is_the_documented_hash_computed_another_way() -> None:
    tensors = load_file(SHIPPED / "model.safetensors")
    listed = [
        [name, "F32", list(tensor.shape), hashlib.sha256(tensor.contiguous().numpy().tobytes()).digest()]
        for name, tensor in sorted(tensors.items())
    ]
    config = json.loads((SHIPPED / "config.json").read_text())
    config.pop("transformers_version")
    tokenizer = hashlib.sha256((SHIPPED / "tokenizer.json").read_bytes()).digest()
    assert fingerprint(SHIPPED) == canonical.digest("base-model", listed, config, tokenizer).hex()


def test_shipped_base_is_the_one_its_readme_names_and_is_small() -> None:
    assert fingerprint(SHIPPED) in (SHIPPED / "README.md").read_text()
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_500_000


@pytest.mark.parametrize("changed", ["weight", "config", "tokenizer"])
def test_any_change_of_substance_changes_the_fingerprint(copy: Path, changed: str) -> None:
    before = fingerprint(copy)
    if changed == "weight":
        tensors = load_file(copy / "model.safetensors")
        tensors[HEAD][0, 0] += 1e-6
        save_file(tensors, copy / "model.safetensors")
    elif changed == "config":
        config = json.loads((copy / "config.json").read_text())
        config["text_config"]["layer_norm_eps"] = 1e-6
        (copy / "config.json").write_text(json.dumps(config))
    else:
        text = (copy / "tokenizer.json").read_text()
        (copy / "tokenizer.json").write_text(text.replace('"|PAD|"', '"|pad|"'))
    assert fingerprint(copy) != before


def test_layout_of_files_and_json_does_not_change_the_fingerprint(copy: Path) -> None:
    before = fingerprint(copy)
    config = json.loads((copy / "config.json").read_text())
    config["transformers_version"] = "5.99.0"
    (copy / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, copy / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, inside in shards.items() for name in inside}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fingerprint(copy) == before
    assert torch.equal(load_base(copy).model.lm_head.weight, tensors[HEAD])


def test_another_base_than_the_pinned_one_is_refused_with_both_prefixes() -> None:
    with pytest.raises(ModelError) as caught:
        load_base(SHIPPED, sha256="ab" * 32)
    assert caught.value.code == "BASE_FINGERPRINT"
    assert fingerprint(SHIPPED)[:16] in caught.value.cause
    assert "abababababababab" in caught.value.cause
    assert caught.value.hint


def test_loaded_base_is_frozen_float32_and_in_evaluation_mode() -> None:
    model = load_base(SHIPPED, sha256=fingerprint(SHIPPED)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_half_precision_storage_is_loaded_as_float32(copy: Path) -> None:
    tensors = {name: tensor.half() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert {parameter.dtype for parameter in load_base(copy).model.parameters()} == {torch.float32}


def test_weights_in_pickle_form_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError) as caught:
        load_base(copy)
    assert caught.value.code == "BASE_NOT_SAFETENSORS"


@pytest.mark.parametrize("fault", ["truncated", "header_beyond_file", "offsets_outside", "empty"])
def test_broken_weight_file_is_one_clear_error(copy: Path, fault: str) -> None:
    file = copy / "model.safetensors"
    raw = file.read_bytes()
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
    broken = {
        "truncated": raw[:-100],
        "header_beyond_file": (1 << 40).to_bytes(8, "little") + raw[8:],
        "offsets_outside": len(header).to_bytes(8, "little") + header + b"\0" * 8,
        "empty": b"",
    }
    file.write_bytes(broken[fault])
    with pytest.raises(ModelError) as caught:
        fingerprint(copy)
    assert caught.value.code == "BASE_BROKEN"


def test_missing_directory_and_unknown_name_are_clear(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_base(tmp_path / "nowhere")
    assert caught.value.code == "BASE_MISSING"
    with pytest.raises(ModelError) as unknown:
        shipped_base("giant-fuyu")
    assert "tiny-fuyu" in unknown.value.hint


def test_a_family_without_pictures_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config["text_config"], "model_type": "persimmon"}))
    with pytest.raises(ModelError) as caught:
        load_base(copy)
    assert caught.value.code == "BASE_FAMILY"
