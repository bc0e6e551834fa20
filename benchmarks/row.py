"""Row: one measured figure with what stands beside it, the target and whether it holds; and the file of all rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine


@dataclass(frozen=True)
class Target:
    """What design asks of a row: `ratio` or `value` at least or at most `bound`.

    Args:
        of: which figure is bounded.
        at_least: else at most.
    """

    of: str
    at_least: bool
    bound: float

    def __post_init__(self) -> None:
        if self.of not in ("ratio", "value"):
            raise ValueError("a target bounds the ratio or the value")

    def met(self, figure: float) -> bool:
        """Whether a figure is within the bound."""
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{self.of} {'>=' if self.at_least else '<='} {self.bound:g}"


def at_least(bound: float, of: str = "ratio") -> Target:
    """The larger the better."""
    return Target(of, True, bound)


def at_most(bound: float, of: str = "ratio") -> Target:
    """The smaller the better."""
    return Target(of, False, bound)


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        name: stable; a later run replaces the row of this name.
        value: in `unit`; CPU time where it is a time, unless the unit says wall.
        against: what stands beside it, in words; empty for nothing.
        against_value: in the same unit.
        ratio: what `target` may bound; how it is formed stands in `ratio_is`.
        target: None for a row that only informs.
        facts: configuration, wall times, sizes, versions: whatever a reader needs to repeat or to doubt the figure.
    """

    name: str
    value: float
    unit: str
    against: str = ""
    against_value: float | None = None
    ratio: float | None = None
    ratio_is: str = ""
    target: Target | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=describe_machine)

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        figure = self.value if self.target.of == "value" else self.ratio
        return figure is not None and self.target.met(figure)

    def as_json(self) -> dict[str, Any]:
        """Every field, rounded to four digits that mean something."""
        fields = asdict(replace(self, target=None))
        fields["target"] = None if self.target is None else str(self.target)
        return {**_rounded(fields), "holds": self.holds}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def merge(path: Path, case: str, rows: Iterable[Row]) -> None:
    """Write one case's rows into the file in the place of its earlier ones; all others stay as they were measured."""
    kept = [row for row in read(path) if row["case"] != case]
    kept += [{"case": case, **row.as_json()} for row in rows]
    text = json.dumps({"rows": sorted(kept, key=lambda row: str(row["name"]))}, indent=1)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows written so far.

    Raises:
        ValueError: the file is something else.
    """
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(one, dict) and {"case", "name"} <= set(one) for one in rows):
        raise ValueError(f"{path} is no file of benchmark rows; move it away")
    return rows


_VERDICT = {True: "holds", False: "FALLS SHORT", None: ""}


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of rows as `as_json` gives them, one line each."""
    cells = [("row", "value", "unit", "beside", "ratio", "target", "")]
    for row in rows:
        beside = "" if row["against_value"] is None else f"{row['against_value']:.4g} {row['against']}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        verdict = _VERDICT[row["holds"]]
        cells.append((row["name"], f"{row['value']:.4g}", row["unit"], beside, ratio, row["target"] or "", verdict))
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
