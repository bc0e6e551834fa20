"""From a folder of files, or from nothing, to the hospitals of a demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fedvlm_secure.cli.hospitals import folder_hospitals, hospital_id, phantom_hospitals, train_answers
from fedvlm_secure.errors import DataError, PolicyError


def write_hospital(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    whole = [{"image": "a.png", "task": "vqa", "patient": "p", **row} for row in rows]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in whole), encoding="utf-8")


def test_hospital_is_named_after_its_file_with_underscores_as_dashes(tmp_path: Path) -> None:
    for name in ("centre_b", "centre_a", "st-mary_2"):
        (tmp_path / f"{name}.jsonl").touch()
    (tmp_path / "notes.txt").touch()
    assert [hospital.node for hospital in folder_hospitals(tmp_path)] == ["centre-a", "centre-b", "st-mary-2"]


@pytest.mark.parametrize("name", ["Mixed.jsonl", "a b.jsonl", "é.jsonl", f"{'a' * 65}.jsonl", "<b>.jsonl"])
def test_file_name_that_gives_no_id_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        hospital_id(Path(name))
    assert caught.value.code == "DATA_NAME"
    assert caught.value.hint


def test_two_files_that_mean_one_hospital_are_refused_and_both_named(tmp_path: Path) -> None:
    for name in ("a_1", "a-1", "b", "c"):
        (tmp_path / f"{name}.jsonl").touch()
    with pytest.raises(DataError, match=r"a_1.jsonl and a-1.jsonl"):
        folder_hospitals(tmp_path)


@pytest.mark.parametrize("files", [0, 1, 2])
def test_fewer_than_three_hospitals_are_refused(tmp_path: Path, files: int) -> None:
    for number in range(files):
        (tmp_path / f"h{number}.jsonl").touch()
    with pytest.raises(PolicyError) as caught:
        folder_hospitals(tmp_path)
    assert caught.value.code == "COHORT_TOO_SMALL"
    assert f"{files} hospital" in caught.value.cause


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DATA_MISSING"):
        folder_hospitals(tmp_path / "nowhere")


def test_phantom_hospitals_have_different_names_and_patients_however_many() -> None:
    made = phantom_hospitals(9, seed=5)
    assert len({hospital.node for hospital in made}) == 9
    drawn = {json.dumps(hospital.source, sort_keys=True) for hospital in made}
    assert len(drawn) == 9, "two hospitals would hold the same patients"


def test_vocabulary_holds_train_answers_only_and_of_the_policys_tasks(tmp_path: Path) -> None:
    row = {"question": "What?", "answer": "cat", "split": "train"}
    for name, extra in (("a", {"answer": "only in test", "split": "test"}), ("b", {"answer": "dog"}), ("c", {})):
        other = {**row, "question": "Else?", **extra, "patient": "q"}
        report = {**row, "question": "Report", "task": "caption", "answer": "a long report"}
        write_hospital(tmp_path, f"{name}.jsonl", [row, other, report])
    words = train_answers(folder_hospitals(tmp_path), image_size=32, tasks=("vqa", "classification"))
    assert words == ("cat", "dog")


def test_broken_line_is_named_with_file_and_line_before_anything_starts(tmp_path: Path) -> None:
    row = {"question": "What?", "answer": "cat"}
    for name in ("a", "b", "c"):
        write_hospital(tmp_path, f"{name}.jsonl", [row])
    with (tmp_path / "b.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match=r"b\.jsonl:2"):
        train_answers(folder_hospitals(tmp_path), image_size=32, tasks=("vqa",))
