"""The hash that hospitals approve: blind to spelling, sensitive to every value."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy

PolicyFile = Callable[..., Path]


def test_comments_order_spelling_and_written_defaults_do_not_change_the_hash(policy_file: PolicyFile) -> None:
    plain = policy_hash(load_policy(policy_file()))
    for old, new in [
        ("rounds: 5", "rounds: 5   # five"),
        ("version: 1\nname: trial\n", "name: trial\nversion: 1\n"),
        ("30m", "1800s"),
        ("1e-3", "0.001"),
        ("[yes, no]", '["no", "yes"]'),
        ("steps: 10", "steps: 10, optimizer: adamw"),
        ("min_nodes: 3", "min_nodes: 3\n  colluding: auto"),
    ]:
        assert policy_hash(load_policy(policy_file(old, new))) == plain, new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: trial", "name: trial-2"),
        ("rounds: 5", "rounds: 6"),
        ("1111", "1112"),
        ("strategy: lora", "strategy: connector"),
        ("strategy: lora", "strategy: two-stage\n  connector_rounds: 2"),
        ("version: 1", "version: 1\nalgorithm: {name: fedprox}"),
        ("seed: 7", "seed: 8"),
        ("image_size: 32", "image_size: 33"),
        ("[yes, no]", "[yes, no, maybe]"),
        ("30m", "31m"),
        ("min_nodes: 3", "min_nodes: 3\n  colluding: 0"),  # what `auto` comes to for three is still another word
        ("1e-3", "1.0000001e-3"),
        ("steps: 10", "epochs: 10"),
        ("0.25", "0.250001"),
        ("version: 1", "version: 1\nlimits: {min_patients: 6}"),
        ("version: 1", "version: 1\nevaluation: {release: totals}"),
        ("version: 1", "version: 1\nweights: {counted: {cap: 5}}"),
    ],
)
def test_every_value_changes_the_hash(policy_file: PolicyFile, old: str, new: str) -> None:
    plain = policy_hash(load_policy(policy_file()))
    assert policy_hash(load_policy(policy_file(old, new))) != plain


def test_a_vocabulary_file_is_hashed_by_its_content_not_its_name(policy_file: PolicyFile, tmp_path: Path) -> None:
    raw = b"yes\nno\n"
    sha256 = hashlib.sha256(raw).hexdigest()
    hashes = set()
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(raw)
        hashes.add(policy_hash(load_policy(policy_file("[yes, no]", f'{{file: {name}, sha256: "{sha256}"}}'))))
    assert len(hashes) == 1


def test_the_hash_is_that_of_the_documented_bytes(policy_file: PolicyFile) -> None:
    """Encoded here by hand from the written rule, without the package's encoder."""
    section = {
        "version": 1,
        "name": "trial",
        "rounds": 5,
        "model": {
            "base": {"name": "tiny-fuyu", "sha256": "1" * 64},
            "strategy": "lora",
            "connector_rounds": None,
            "connector": "keep",
            "lora": {"r": 8, "alpha": 32.0, "factors": "both"},
            "seed": 7,
        },
        "contract": {
            "prompt": "{question}",
            "image_size": 32,
            "normalisation": "unit",
            "answer": "generate",
            "vocabulary": ["no", "yes"],
            "tasks": ["vqa", "classification"],
        },
        "cohort": {
            "min_nodes": 3,
            "min_survivors": "auto",
            "colluding": "auto",
            "deadline": 1800,
            "setup_deadline": 600,
            "epoch_rounds": 50,
            "versions": [],
            "participation": "warn",
        },
        "weights": "equal",
        "algorithm": {"name": "fedavg"},
        "local": {
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "schedule": "constant",
            "steps": 10,
            "epochs": None,
            "batch_size": 8,
            "weight_decay": 0.0,
            "augment": "none",
            "precision": "float32",
        },
        "protection": {"method": "masking", "lanes": "auto", "max_update": 0.25},
        "unsafe_no_protection": False,
        "privacy": {"mechanism": "none"},
        "evaluation": {"every": 1, "release": "none", "limit": None, "noise_multiplier": None, "epsilon": None},
        "limits": {"step_norm": 10.0, "min_patients": 5},
    }
    expected = hashlib.sha256(_bytes(["fedvlm/v1/policy", section])).digest()
    assert policy_hash(load_policy(policy_file())) == expected


def _bytes(value: object) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"u" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"d" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"s" + struct.pack(">Q", len(value.encode())) + value.encode()
    if isinstance(value, list):
        return b"l" + struct.pack(">Q", len(value)) + b"".join(_bytes(item) for item in value)
    assert isinstance(value, dict)
    entries = sorted((key.encode(), item) for key, item in value.items())
    return (
        b"m"
        + struct.pack(">Q", len(entries))
        + b"".join(struct.pack(">Q", len(key)) + key + _bytes(item) for key, item in entries)
    )
