"""Geometry of the report's drawings: numbers only; the template makes SVG of them and escapes every text."""

from __future__ import annotations

from dataclasses import dataclass

from fedvlm_secure.audit.summary import Accuracy, RunSummary

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 10, 28
MOST_LINES = 6
"""With more hospitals than this only the pooled line is drawn; the tables still hold every one."""

COLOURS = ("#0b5fa5", "#b34700", "#1a7a3c", "#7a3e9d", "#8a6d00", "#a3123a")
"""Each at least 4.5 to 1 against white."""

DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "1 4")


@dataclass(frozen=True)
class Point:
    """One score on paper; `low` and `high` are the interval's ends (y)."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Line:
    """One hospital's scores over the rounds, or those of all together."""

    label: str
    colour: str
    dash: str
    pooled: bool
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """For `points` of an SVG polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Accuracy of one task over the rounds."""

    task: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def chart(summary: RunSummary, task: str) -> Chart:
    """The chart of one task; the pooled line comes last, so that it lies on top."""
    hospitals = [party.name for party in summary.hospitals]
    drawn: list[Line] = []
    if len(hospitals) <= MOST_LINES:
        for at, name in enumerate(hospitals):
            drawn.append(Line(name, COLOURS[at], DASHES[at], False, _points(summary, name, task)))
    drawn.append(Line("all hospitals", "#1b1f24", "", True, _points(summary, None, task)))
    step = max(1, -(-summary.last_round // 10))
    x_ticks = tuple(Tick(_x(n, summary.last_round), str(n)) for n in range(0, summary.last_round + 1, step))
    y_ticks = tuple(Tick(_y(percent / 100), f"{percent}") for percent in range(0, 101, 25))
    return Chart(task, tuple(line for line in drawn if line.points), x_ticks, y_ticks)


def _points(summary: RunSummary, node: str | None, task: str) -> tuple[Point, ...]:
    found = [entry for entry in summary.accuracy if entry.node == node and entry.task == task]
    return tuple(_point(entry, summary.last_round) for entry in found)


def _point(entry: Accuracy, last_round: int) -> Point:
    text = f"round {entry.round}: {100 * entry.share:.1f} % ({entry.correct} of {entry.total})"
    return Point(_x(entry.round, last_round), _y(entry.share), _y(entry.low), _y(entry.high), text)


def _x(round_number: int, last_round: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * round_number / max(1, last_round)


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share)
