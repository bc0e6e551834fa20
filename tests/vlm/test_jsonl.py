"""A hospital's folder is read whole, or refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.jsonl import load_jsonl


def row(**changes: Any) -> dict[str, Any]:
    return {
        "image": "images/a.png",
        "question": "Is it normal?",
        "answer": "yes",
        "task": "vqa",
        "patient": "p-secret-1",
        "split": "train",
        "choices": ["no", "yes"],
    } | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pack" / "images").mkdir(parents=True)
    Image.fromarray(np.full((40, 60), 200, np.uint8)).save(tmp_path / "pack" / "images" / "a.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "outside.png")
    return tmp_path / "pack"


def write(folder: Path, *lines: str | dict[str, Any]) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "h.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder / "h.jsonl"


def test_rows_pictures_and_optional_fields_are_read(folder: Path) -> None:
    path = write(folder, row(), "", row(question="Which side?", answer="left", split=None, choices=None))
    data = load_jsonl(path, image_size=16)
    assert data.pictures.shape == (1, 16, 16, 3)
    assert (data.pictures == 200).all()
    assert [(r.question, r.split, r.choices, r.where) for r in data.rows] == [
        ("Is it normal?", "train", ("no", "yes"), "h.jsonl:1"),
        ("Which side?", None, (), "h.jsonl:3"),
    ]


def test_rows_of_other_tasks_are_left_out_with_their_pictures(folder: Path) -> None:
    path = write(folder, row(task="caption", image="images/none.png", answer="A report."), row())
    data = load_jsonl(path, image_size=8, tasks=("vqa", "classification"))
    assert [r.task for r in data.rows] == ["vqa"]
    assert len(data.pictures) == 1


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ('{"image": "images/a.png", ', "JSON_BROKEN"),
        ('["a", "list"]', "JSON_BROKEN"),
        ("[" * 100_000, "JSON_BROKEN"),
        (row(answer=None, question="Q?"), "FIELD_MISSING"),
        (row(answer=3, question="Q?"), "FIELD_WRONG"),
        (row(answer="  ", question="Q?"), "FIELD_WRONG"),
        (row(task="segmentation", question="Q?"), "FIELD_WRONG"),
        (row(split="validation", question="Q?"), "FIELD_WRONG"),
        (row(choices="yes", question="Q?"), "FIELD_WRONG"),
        (row(image="images/none.png"), "IMAGE_MISSING"),
        (row(image="../outside.png"), "PATH_ESCAPES"),
        (row(image="/etc/hostname"), "PATH_ESCAPES"),
        (row(image="images/\0.png"), "PATH_ESCAPES"),
        (row(answer="no"), "DUPLICATE_ROW"),
    ],
)
def test_a_bad_second_line_is_one_error_that_names_it(folder: Path, second: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        load_jsonl(write(folder, row(), second), image_size=8)
    assert caught.value.code == code
    assert caught.value.cause.startswith("h.jsonl:2: ")
    assert "p-secret-1" not in caught.value.cause + caught.value.hint


@pytest.mark.parametrize("content", [b"not an image", b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_an_unreadable_image_is_named_by_the_line_that_asks_for_it(folder: Path, content: bytes) -> None:
    (folder / "images" / "bad.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_jsonl(write(folder, row(), row(image="images/bad.png")), image_size=8)
    assert (caught.value.code, caught.value.cause[:10]) == ("IMAGE_UNREADABLE", "h.jsonl:2:")


def test_an_image_cut_short_is_unreadable(folder: Path) -> None:
    whole = folder / "images" / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(whole)
    (folder / "images" / "half.jpg").write_bytes(whole.read_bytes()[:900])
    with pytest.raises(DataError) as caught:
        load_jsonl(write(folder, row(image="images/half.jpg")), image_size=8)
    assert caught.value.code == "IMAGE_UNREADABLE"


def test_a_link_out_of_the_folder_is_an_escape(folder: Path) -> None:
    (folder / "images" / "link.png").symlink_to(folder.parent / "outside.png")
    with pytest.raises(DataError) as caught:
        load_jsonl(write(folder, row(image="images/link.png")), image_size=8)
    assert caught.value.code == "PATH_ESCAPES"


def test_bytes_that_are_not_utf8_are_broken_json(folder: Path) -> None:
    (folder / "h.jsonl").write_bytes(b'{"image": "\xff\xfe"}\n')
    with pytest.raises(DataError) as caught:
        load_jsonl(folder / "h.jsonl", image_size=8)
    assert (caught.value.code, caught.value.cause[:10]) == ("JSON_BROKEN", "h.jsonl:1:")


def test_missing_file_and_empty_file_are_clear(folder: Path) -> None:
    with pytest.raises(DataError) as missing:
        load_jsonl(folder / "none.jsonl", image_size=8)
    with pytest.raises(DataError) as empty:
        load_jsonl(write(folder, ""), image_size=8)
    assert (missing.value.code, empty.value.code) == ("DATA_MISSING", "NO_ROWS")


def test_sixteen_bit_grey_keeps_its_contrast(folder: Path) -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
    Image.fromarray(ramp).save(folder / "images" / "deep.png")
    pictures = load_jsonl(write(folder, row(image="images/deep.png")), image_size=16).pictures
    assert (int(pictures.min()), int(pictures.max())) == (0, 255)
