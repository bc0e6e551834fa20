"""Local `datasets` sources by a column mapping."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.sources import ColumnMapping, load_source

COLUMNS = ColumnMapping(image="scan", question="ask", answer="say", patient="person", task="vqa")


def png(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((20, 20), level, np.uint8)).save(out, "PNG")
    return out.getvalue()


def table(scans: list[bytes] | None = None) -> datasets.Dataset:
    columns = {"scan": scans or [png(10), png(250)], "ask": ["Q?", "R?"], "say": ["yes", "no"], "person": [1, 2]}
    return datasets.Dataset.from_dict(columns)


def test_saved_images_are_read_with_constant_task(tmp_path: Path) -> None:
    table().cast_column("scan", datasets.Image()).save_to_disk(str(tmp_path / "set"))
    data = load_source("disk", tmp_path / "set", part="train", columns=COLUMNS, image_size=8)
    assert [(row.question, row.answer, row.task, row.patient) for row in data.rows] == [
        ("Q?", "yes", "vqa", "1"),
        ("R?", "no", "vqa", "2"),
    ]
    assert data.pictures[:, 0, 0, 0].tolist() == [10, 250]


def test_parquet_with_task_split_and_choices_columns(tmp_path: Path) -> None:
    whole = table().add_column("kind", ["vqa", "caption"]).add_column("side", ["train", "test"])
    whole = whole.add_column("allowed", [["no", "yes"], ["no"]])
    whole.to_parquet(str(tmp_path / "set.parquet"))
    columns = replace(COLUMNS, task="kind", split="side", choices="allowed")
    data = load_source("parquet", tmp_path / "set.parquet", part="train", columns=columns, image_size=8, tasks=("vqa",))
    assert [(row.task, row.split, row.choices) for row in data.rows] == [("vqa", "train", ("no", "yes"))]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError) as caught:
        load_source("disk", tmp_path / "set", part="train", columns=replace(COLUMNS, patient="mrn"), image_size=8)
    assert (caught.value.code, "mrn" in caught.value.cause) == ("COLUMN_MISSING", True)


def test_a_broken_image_is_named_by_its_item(tmp_path: Path) -> None:
    table([png(1), b"broken"]).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError) as caught:
        load_source("disk", tmp_path / "set", part="train", columns=COLUMNS, image_size=8)
    assert (caught.value.code, caught.value.cause[:10]) == ("IMAGE_UNREADABLE", "set item 1")


@pytest.mark.parametrize(("loader", "name"), [("disk", "none"), ("https", "set"), ("parquet", "text.parquet")])
def test_what_cannot_be_opened_is_one_error(tmp_path: Path, loader: str, name: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError) as caught:
        load_source(loader, tmp_path / name, part="train", columns=COLUMNS, image_size=8)
    assert caught.value.code == "SOURCE_UNREADABLE"


def test_a_folder_of_images_with_metadata_leaves_no_copy_in_a_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    lines = []
    for number, level in enumerate((10, 250)):
        (tmp_path / "set" / f"{number}.png").write_bytes(png(level))
        line = {"file_name": f"{number}.png", "ask": f"Q{number}?", "say": "yes", "person": f"p{number}"}
        lines.append(json.dumps(line))
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(lines))
    columns = replace(COLUMNS, image="image")
    data = load_source("imagefolder", tmp_path / "set", part="train", columns=columns, image_size=8)
    levels = {row.question: int(data.pictures[row.picture, 0, 0, 0]) for row in data.rows}
    assert levels == {"Q0?": 10, "Q1?": 250}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("image", "code"), [("0.png", None), ("none.png", "IMAGE_MISSING"), ("../0.png", "PATH_ESCAPES")]
)
def test_json_rows_name_images_beside_them(tmp_path: Path, image: str, code: str | None) -> None:
    for folder in (tmp_path / "set", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "0.png").write_bytes(png(77))
    row = {"scan": image, "ask": "Q?", "say": "yes", "person": "a"}
    (tmp_path / "set" / "rows.json").write_text(json.dumps(row))
    try:
        data = load_source("json", tmp_path / "set" / "rows.json", part="train", columns=COLUMNS, image_size=8)
        outcome = None if (data.pictures == 77).all() else "other pixels"
    except DataError as error:
        outcome = error.code
    assert outcome == code
