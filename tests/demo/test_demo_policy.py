"""What an option changes stands in a derived policy file, and that file is what is approved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fedvlm_secure.cli.demo_policy import DemoPolicy, default_policy, demo_policy
from fedvlm_secure.cli.hospitals import folder_hospitals, phantom_hospitals
from fedvlm_secure.errors import DataError, ModelError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.privacy import DpSgd
from fedvlm_secure.vlm.base import fingerprint, shipped_base
from tests.demo.test_hospitals import write_hospital


def derived(out: Path, *, rounds: int | None = None, seed: int | None = None, base: Path | None = None) -> DemoPolicy:
    hospitals = phantom_hospitals(3, 1)
    return demo_policy(
        default_policy(own_data=False), out, hospitals, rounds=rounds, seed=seed, base=base, own_data=False
    )


def test_without_options_the_given_file_itself_is_approved(tmp_path: Path) -> None:
    assert derived(tmp_path).path == default_policy(own_data=False)
    assert list(tmp_path.iterdir()) == []


def test_option_that_repeats_the_policy_changes_nothing(tmp_path: Path) -> None:
    policy = load_policy(default_policy(own_data=False))
    assert derived(tmp_path, rounds=policy.rounds, seed=policy.model.seed).path == default_policy(own_data=False)


def test_default_policy_pins_the_shipped_base() -> None:
    base = load_policy(default_policy(own_data=False)).model.base
    assert base.name is not None
    assert base.sha256 == fingerprint(shipped_base(base.name))


def test_rounds_and_seed_go_into_the_file_and_change_its_hash(tmp_path: Path) -> None:
    made = derived(tmp_path, rounds=2, seed=99)
    read = load_policy(tmp_path / "policy.yaml")
    assert (read.rounds, read.model.seed, made.changed) == (2, 99, ("rounds", "model.seed"))
    assert policy_hash(read) == policy_hash(made.policy) != policy_hash(load_policy(default_policy(own_data=False)))
    assert "Derived from" in (tmp_path / "policy.yaml").read_text(encoding="utf-8").splitlines()[0]


def test_own_data_bring_their_vocabulary_in_a_file_that_the_policy_pins(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_hospital(tmp_path, f"{name}.jsonl", [{"question": "What?", "answer": f"naïve {name}"}])
    out = tmp_path / "out"
    out.mkdir()
    demo_policy(
        default_policy(own_data=False),
        out,
        folder_hospitals(tmp_path),
        rounds=None,
        seed=None,
        base=None,
        own_data=True,
    )
    assert load_policy(out / "policy.yaml").contract.vocabulary.words == ("naïve a", "naïve b", "naïve c")
    (out / "answers.txt").write_text("something else\n", encoding="utf-8")
    with pytest.raises(Exception, match="VOCABULARY_MISMATCH"):
        load_policy(out / "policy.yaml")


def test_own_base_is_pinned_by_its_fingerprint_with_the_pictures_it_was_made_for(tmp_path: Path) -> None:
    base = tmp_path / "My Base_2"
    shutil.copytree(shipped_base("tiny-fuyu"), base)
    described = json.loads((base / "contract.json").read_text(encoding="utf-8"))
    (base / "contract.json").write_text(json.dumps({**described, "normalisation": "standard"}), encoding="utf-8")
    made = derived(tmp_path, base=base).policy
    assert made.model.base.name == "my-base-2"
    assert made.model.base.sha256 == fingerprint(base)
    assert made.contract.normalisation == "standard"
    assert str(tmp_path) not in (tmp_path / "policy.yaml").read_text(encoding="utf-8")


def test_base_whose_contract_is_broken_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(shipped_base("tiny-fuyu"), base)
    (base / "contract.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"contract\.json"):
        derived(tmp_path, base=base)


def private(folder: Path, out: Path) -> DemoPolicy:
    source = default_policy(own_data=False, private=True)
    return demo_policy(source, out, folder_hospitals(folder), rounds=None, seed=None, base=None, own_data=True)


def write_patients(folder: Path, counts: dict[str, int]) -> Path:
    """A train row for each patient, and one patient more on the test side; returns a new folder for results."""
    for name, count in counts.items():
        rows = [{"question": f"Q{at}", "answer": "a", "patient": f"p{at}", "split": "train"} for at in range(count)]
        test = {"question": "T", "answer": "a", "patient": "other", "split": "test"}
        write_hospital(folder, f"{name}.jsonl", [*rows, test])
    (folder / "out").mkdir()
    return folder / "out"


def test_demo_is_private_by_default_and_needs_no_derived_file_for_its_phantoms(tmp_path: Path) -> None:
    source = default_policy(own_data=False, private=True)
    made = demo_policy(source, tmp_path, phantom_hospitals(3, 1), rounds=None, seed=None, base=None, own_data=False)
    assert isinstance(made.policy.privacy, DpSgd)
    assert made.path == source


def test_more_phantom_hospitals_under_privacy_are_all_declared(tmp_path: Path) -> None:
    source, hospitals = default_policy(own_data=False, private=True), phantom_hospitals(5, 1)
    made = demo_policy(source, tmp_path, hospitals, rounds=None, seed=None, base=None, own_data=False).policy
    assert isinstance(made.privacy, DpSgd)
    assert set(made.privacy.expected_patients) == {str(hospital.node) for hospital in hospitals}


def test_own_data_under_privacy_declare_their_train_patients_only(tmp_path: Path) -> None:
    made = private(tmp_path, write_patients(tmp_path, {"a": 20, "b": 21, "c": 30})).policy
    assert isinstance(made.privacy, DpSgd)
    assert made.privacy.expected_patients == {"a": 20, "b": 21, "c": 30}


def test_hospital_with_too_few_patients_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b: 19 patients") as caught:
        private(tmp_path, write_patients(tmp_path, {"a": 20, "b": 19, "c": 30}))
    assert caught.value.code == "TOO_FEW_PATIENTS"
