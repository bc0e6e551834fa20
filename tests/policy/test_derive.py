"""A derived policy says what it came from and is exactly the base with the changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.derive import derive
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy

PolicyFile = Callable[..., Path]


def test_nothing_changed_keeps_the_hash_and_names_the_base(policy_file: PolicyFile, tmp_path: Path) -> None:
    base = policy_file()
    out = tmp_path / "out.yaml"
    assert policy_hash(derive(base, {}, out)) == policy_hash(load_policy(base))
    header = out.read_text(encoding="utf-8").splitlines()[:2]
    assert all(line.startswith("# ") for line in header)
    assert policy_hash(load_policy(base)).hex() in header[0]


def test_changes_arrive_and_nothing_else_does(policy_file: PolicyFile, tmp_path: Path) -> None:
    base = policy_file()
    changes = {
        "name": "trial-chest",
        "rounds": 20,
        "cohort.deadline": "20s",
        "contract.vocabulary": ("no", "yes", "on", "1e-5", "a: b", "é", "~"),
        "weights": {"counted": {"cap": 500}},
        "local.steps": None,
        "local.epochs": 2,
    }
    made = derive(base, changes, tmp_path / "out.yaml")
    assert (made.name, made.rounds, made.cohort.deadline) == ("trial-chest", 20, 20)
    assert set(made.contract.vocabulary.words) == {"no", "yes", "on", "1e-5", "a: b", "é", "~"}
    assert (made.local.steps, made.local.epochs) == (None, 2)
    before, after = load_policy(base).model_dump(), made.model_dump()
    changed = {"name", "rounds", "cohort", "contract", "weights", "local"}
    assert {key for key in before if before[key] != after[key]} == changed


def test_a_vocabulary_file_becomes_a_list_so_that_the_derived_file_stands_alone(
    policy_file: PolicyFile, tmp_path: Path
) -> None:
    raw = b"yes\nno\n"
    (tmp_path / "answers.txt").write_bytes(raw)
    base = policy_file("[yes, no]", f'{{file: answers.txt, sha256: "{hashlib.sha256(raw).hexdigest()}"}}')
    (tmp_path / "elsewhere").mkdir()
    made = derive(base, {}, tmp_path / "elsewhere" / "out.yaml")
    assert made.contract.vocabulary.words == ("no", "yes")
    assert made.contract.vocabulary.file is None


@pytest.mark.parametrize(
    "changes", [{"rouns": 3}, {"local.step": 3}, {"nowhere.at.all": 1}, {"rounds": 0}, {"cohort.min_nodes": 2}]
)
def test_a_change_that_no_policy_may_have_is_refused(
    policy_file: PolicyFile, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(PolicyError):
        derive(policy_file(), changes, tmp_path / "out.yaml")
