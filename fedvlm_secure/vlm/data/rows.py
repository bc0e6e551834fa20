"""One question about one picture, and all that a hospital holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

TASKS = ("vqa", "classification", "caption", "grounding")
SCORED_TASKS = ("vqa", "classification")
SPLITS = ("train", "test")

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        question: text.
        answer: text, not blank.
        task: one of `TASKS`.
        patient: group that a split keeps together; never shown, never sent.
        picture: index into the pictures of the same `HospitalData`.
        where: file and line (or item) for error messages at this hospital.
        split: `train`, `test`, or None where the source does not say.
        choices: the allowed answers where there are few, else empty.
    """

    question: str
    answer: str
    task: str
    patient: str = field(repr=False)
    picture: int
    where: str
    split: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class HospitalData:
    """Rows and decoded pictures of one hospital. Paths and source ids have been left behind.

    Args:
        rows: the questions, in the order of the source.
        pictures: uint8 [n, side, side, 3].

    Raises:
        ValueError: the pictures have another shape or dtype, or a row points outside them.
    """

    rows: tuple[Row, ...]
    pictures: Pictures

    def __post_init__(self) -> None:
        shape = self.pictures.shape
        if self.pictures.dtype != np.uint8 or len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3:
            raise ValueError("pictures are uint8 [n, side, side, 3]")
        if any(not 0 <= row.picture < shape[0] for row in self.rows):
            raise ValueError("a row points to a picture that is not there")

    def patients(self) -> int:
        """Number of distinct patients."""
        return len({row.patient for row in self.rows})


def merge_data(parts: Sequence[HospitalData]) -> HospitalData:
    """Several sources as one; the rows' picture indices are moved along.

    Args:
        parts: at least one, all with pictures of the same size.
    """
    rows: list[Row] = []
    offset = 0
    for part in parts:
        rows += [replace(row, picture=row.picture + offset) for row in part.rows]
        offset += len(part.pictures)
    return HospitalData(tuple(rows), np.concatenate([part.pictures for part in parts]))
