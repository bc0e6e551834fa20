"""Case: one set of rows that is measured by itself and can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.row import Row


@dataclass(frozen=True)
class Case:
    """One independent measurement.

    Args:
        name: GROUP/DETAILS; `--only` takes any part of it.
        measure: gives the rows; it may take minutes.
    """

    name: str
    measure: Callable[[], list[Row]]


def size_name(dimension: int) -> str:
    """`10M`, `100k`."""
    for factor, letter in ((1_000_000, "M"), (1_000, "k")):
        if dimension % factor == 0:
            return f"{dimension // factor}{letter}"
    return str(dimension)
