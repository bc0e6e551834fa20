"""The JSON Lines + images folder of a hospital."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.pictures import path_inside, read_picture
from fedvlm_secure.vlm.data.rows import SPLITS, TASKS, HospitalData, Row

_MAX_LINE_BYTES = 1 << 20
_FIELDS = ("image", "question", "answer", "task", "patient")


def load_jsonl(path: Path, *, image_size: int, tasks: tuple[str, ...] = TASKS) -> HospitalData:
    """Read one hospital: one JSON object a line, images beside the file.

    Fields: `image` (relative to the file's folder), `question`, `answer`, `task`, `patient`; optional `split`
    (train or test) and `choices` (list of text). Other fields are left alone. Rows of other tasks are checked and
    then left out, with their pictures.

    Args:
        path: the `.jsonl` file.
        image_size: side of the decoded pictures in pixels.
        tasks: the task kinds to keep.

    Returns:
        Rows and pictures; each image file is decoded once.

    Raises:
        DataError: DATA_MISSING, JSON_BROKEN, FIELD_MISSING, FIELD_WRONG, PATH_ESCAPES, IMAGE_MISSING,
            IMAGE_UNREADABLE, DUPLICATE_ROW or NO_ROWS, with file and line.
    """
    folder = path.parent.resolve()
    rows: list[Row] = []
    seen: dict[tuple[str, str, str], str] = {}
    pictures: dict[str, int] = {}
    decoded: list[Any] = []
    for where, line in _lines(path):
        fields = _parse(line, where)
        image, identity = fields["image"], (fields["image"], fields["question"], fields["task"])
        if identity in seen:
            raise DataError(
                "DUPLICATE_ROW", f"{where}: the same image, question and task as {seen[identity]}", "remove one of them"
            )
        seen[identity] = where
        if fields["task"] not in tasks:
            continue
        if image not in pictures:
            decoded.append(read_picture(path_inside(folder, image, where=where), side=image_size, where=where))
            pictures[image] = len(decoded) - 1
        rows.append(_row(fields, pictures[image], where))
    if not rows:
        raise DataError("NO_ROWS", f"{path.name}: no row of the tasks {', '.join(tasks)}", "check the field task")
    return HospitalData(tuple(rows), np.stack(decoded))


def _lines(path: Path) -> list[tuple[str, bytes]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            "DATA_MISSING", f"{path}: {error.strerror or 'cannot be read'}", "give the path of a .jsonl file"
        ) from error
    return [(f"{path.name}:{number}", line) for number, line in enumerate(raw.split(b"\n"), 1) if line.strip()]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > _MAX_LINE_BYTES:
        raise DataError("JSON_BROKEN", f"{where}: a line of more than {_MAX_LINE_BYTES} bytes", "one question a line")
    try:
        fields = json.loads(line.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(
            "JSON_BROKEN", f"{where}: not a JSON object in UTF-8", "each line is one whole JSON object"
        ) from error
    if not isinstance(fields, dict):
        raise DataError("JSON_BROKEN", f"{where}: not a JSON object", "each line is one whole JSON object")
    for name in _FIELDS:
        value = fields.get(name)
        if value is None:
            raise DataError("FIELD_MISSING", f"{where}: the field {name} is missing", f"every row has {name}")
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                "FIELD_WRONG", f"{where}: the field {name} is not text, or is blank", f"give {name} as text"
            )
    if fields["task"] not in TASKS:
        raise DataError("FIELD_WRONG", f"{where}: the task is none of {', '.join(TASKS)}", "correct the field task")
    if fields.get("split") not in (None, *SPLITS):
        raise DataError("FIELD_WRONG", f"{where}: the split is neither train nor test", "correct the field split")
    choices = fields.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise DataError("FIELD_WRONG", f"{where}: the field choices is not a list of text", "correct or remove choices")
    return fields


def _row(fields: dict[str, Any], picture: int, where: str) -> Row:
    return Row(
        question=fields["question"].strip(),
        answer=fields["answer"].strip(),
        task=fields["task"],
        patient=fields["patient"],
        picture=picture,
        where=where,
        split=fields.get("split"),
        choices=tuple(fields.get("choices") or ()),
    )
