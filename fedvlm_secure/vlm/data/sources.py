"""Any source that the `datasets` library loads from this machine, by a column mapping."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.pictures import path_inside, read_picture, shrink
from fedvlm_secure.vlm.data.rows import SPLITS, TASKS, HospitalData, Row

_FILE_LOADERS = ("json", "parquet", "csv", "imagefolder", "arrow")


@dataclass(frozen=True)
class ColumnMapping:
    """Which column holds what. `task` may be a constant task kind instead of a column's name."""

    image: str
    question: str
    answer: str
    patient: str
    task: str
    split: str | None = None
    choices: str | None = None


def load_source(
    loader: str, path: Path, *, part: str, columns: ColumnMapping, image_size: int, tasks: tuple[str, ...] = TASKS
) -> HospitalData:
    """Read a local `datasets` source.

    Args:
        loader: `disk` for a folder written by `save_to_disk`, or one of json, parquet, csv, imagefolder, arrow.
        path: the folder or file.
        part: the datasets split to read, such as `train` (which side a row is on is the column `split`, or a hash).
        columns: the mapping; the image column holds images, encoded bytes, or paths relative to the source.
        image_size: side of the decoded pictures.
        tasks: task kinds to keep.

    Raises:
        DataError: SOURCE_UNREADABLE, COLUMN_MISSING, FIELD_WRONG, IMAGE_MISSING, IMAGE_UNREADABLE,
            PATH_ESCAPES, NO_ROWS, with the item's number.
    """
    table = _cast_images(_open(loader, path, part), columns)
    named = (columns.image, columns.question, columns.answer, columns.patient, columns.split, columns.choices)
    for name in (*named, None if columns.task in TASKS else columns.task):
        if name is not None and name not in table.column_names:
            raise DataError(
                "COLUMN_MISSING",
                f"{path.name}: no column {name}; there are {', '.join(table.column_names)}",
                "correct the column mapping",
            )
    folder = (path if path.is_dir() else path.parent).resolve()
    rows: list[Row] = []
    pictures: list[NDArray[np.uint8]] = []
    for number, item in enumerate(table):
        where = f"{path.name} item {number}"
        row = _row(item, columns, len(pictures), where)
        if row.task not in tasks:
            continue
        rows.append(row)
        pictures.append(_picture(item[columns.image], folder, image_size, where))
    if not rows:
        raise DataError("NO_ROWS", f"{path.name}: no row of the tasks {', '.join(tasks)}", "check the task column")
    return HospitalData(tuple(rows), np.stack(pictures))


def _open(loader: str, path: Path, part: str) -> Any:
    import datasets

    if loader != "disk" and loader not in _FILE_LOADERS:
        raise DataError(
            "SOURCE_UNREADABLE", f"no loader {loader[:40]!r}", f"use disk or one of {', '.join(_FILE_LOADERS)}"
        )
    if not path.exists():
        raise DataError("SOURCE_UNREADABLE", f"{path}: does not exist", "give a local folder or file")
    try:
        if loader == "disk":
            found = datasets.load_from_disk(str(path))
            return found[part] if isinstance(found, datasets.DatasetDict) else found
        place = {"data_dir": str(path)} if path.is_dir() else {"data_files": {part: str(path)}}
        # the library's usual cache would keep a second copy of the hospital's data in the home directory
        with tempfile.TemporaryDirectory() as cache:
            return datasets.load_dataset(loader, split=part, cache_dir=cache, keep_in_memory=True, **place)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            "SOURCE_UNREADABLE",
            f"{path}: `datasets` cannot read it as {loader} with the part {part} ({type(error).__name__})",
            "check loader, path and part",
        ) from error


def _cast_images(table: Any, columns: ColumnMapping) -> Any:
    """Let `datasets` hand over undecoded bytes, so that a broken image is our error with its item's number."""
    import datasets

    if columns.image in table.column_names and isinstance(table.features[columns.image], datasets.Image):
        return table.cast_column(columns.image, datasets.Image(decode=False))
    return table


def _picture(value: Any, folder: Path, side: int, where: str) -> NDArray[np.uint8]:
    import io

    from PIL import Image, UnidentifiedImageError

    if isinstance(value, str):
        return read_picture(path_inside(folder, value, where=where), side=side, where=where)
    encoded = value.get("bytes") if isinstance(value, dict) else value
    try:
        if isinstance(value, dict) and encoded is None and isinstance(value.get("path"), str):
            encoded = Path(value["path"]).read_bytes()
        if not isinstance(encoded, bytes):
            raise DataError("IMAGE_UNREADABLE", f"{where}: the image column holds no image", "correct the mapping")
        with Image.open(io.BytesIO(encoded)) as image:
            return shrink(image, side=side, where=where)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            "IMAGE_UNREADABLE", f"{where}: the image cannot be decoded ({type(error).__name__})", "replace the image"
        ) from error


def _row(item: dict[str, Any], columns: ColumnMapping, picture: int, where: str) -> Row:
    def text(name: str) -> str:
        value = item[name]
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise DataError("FIELD_WRONG", f"{where}: the column {name} holds no text", "correct the source")
        return str(value).strip()

    task = columns.task if columns.task in TASKS else text(columns.task)
    split = None if columns.split is None else item[columns.split]
    choices = (item[columns.choices] or []) if columns.choices is not None else []
    if task not in TASKS or split not in (None, *SPLITS):
        raise DataError("FIELD_WRONG", f"{where}: task or split has a value that is not allowed", "correct the source")
    return Row(
        question=text(columns.question),
        answer=text(columns.answer),
        task=task,
        patient=text(columns.patient),
        picture=picture,
        where=where,
        split=split,
        choices=tuple(str(choice) for choice in choices),
    )
