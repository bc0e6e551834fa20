"""What a demo shows while it runs: one table redrawn on a terminal, or a plain line whenever something is new."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from fedvlm_secure import console
from fedvlm_secure.cli.progress import POOLED, Progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_PHASES = {
    "": "processes start and load model and data",
    "gather": "waiting for the hospitals",
    "keys": "fresh keys",
    "seal": "agreeing on keys",
    "agree": "agreeing on keys",
    "upload": "training",
    "sign": "signing who is in the sum",
    "reveal": "opening the sum",
    "decrypt": "opening the sum",
    "certify": "checking and acknowledging the result",
    "void": "closing a round without a result",
    "done": "the last scoring",
    "aborted": "aborted",
}
_MOST_COLUMNS = 6


class View(Protocol):
    """Shows progress until it is closed."""

    def show(self, progress: Progress, elapsed_s: float) -> None:
        """One more look."""
        ...

    def close(self) -> None:
        """Leave the last look standing."""
        ...


def make_view() -> View:
    """The table on a terminal, else lines."""
    return TableView() if sys.stdout.isatty() else LineView()


def doing(progress: Progress) -> str:
    """The phase in plain words."""
    words = _PHASES.get(progress.phase, progress.phase)
    if progress.phase == "upload" and progress.uploaded:
        words += f", {len(progress.uploaded)} of {len(progress.nodes)} updates are here"
    return words


def counted_bytes(size: float) -> str:
    """`254 kB`, `1.3 MB`: decimal units."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 100 * factor else 1}f} {unit}"
    return f"{size:.0f} B"


class LineView:
    """A line per scored round, and one per phase of the set-up."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._scored: set[int] = set()

    def show(self, progress: Progress, elapsed_s: float) -> None:
        if progress.round <= 1 and progress.phase != self._phase and not self._scored:
            self._phase = progress.phase
            console.say(f"{elapsed_s:6.1f} s  {doing(progress)}")
        for number in progress.scored_rounds:
            if number not in self._scored and number <= len(progress.closed):
                self._scored.add(number)
                console.say(f"{elapsed_s:6.1f} s  {round_line(progress, number)}")

    def close(self) -> None:
        """Lines stay as they are."""


def round_line(progress: Progress, number: int) -> str:
    """A closed round in one line: who took part, what each sent, how well each does."""
    parts = ["before training" if number == 0 else f"round {number} of {progress.rounds}"]
    if number:
        parts.append(_traffic(progress, number))
    for task in progress.tasks:
        cells = [f"{node} {_share(progress, number, node, task)}" for node in progress.nodes]
        parts.append(f"{task}: {', '.join(cells)}")
    return " | ".join(parts)


def _traffic(progress: Progress, number: int) -> str:
    closed, sent = progress.closed[number - 1], progress.sent(number)
    if closed["void"]:
        return "no result"
    each = max((entry.upload_bytes for entry in sent), default=closed["upload_bytes"])
    ratio = each / closed["plain_bytes"]
    return f"{len(closed['survivors'])} hospitals, {counted_bytes(each)} each ({ratio:.2f} of plain)"


def _share(progress: Progress, number: int, node: object, task: str) -> str:
    entry = progress.accuracy(number, node, task)  # type: ignore[arg-type]
    return "" if entry is None else f"{100 * entry.share:.0f} %"


class TableView:
    """One table for the whole run, redrawn in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live: Live = Live(auto_refresh=False, transient=False)
        self._live.start()

    def show(self, progress: Progress, elapsed_s: float) -> None:
        self._live.update(_drawn(progress, elapsed_s), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _drawn(progress: Progress, elapsed_s: float) -> RenderableType:
    from rich.table import Table

    names: list[object] = list(progress.nodes)
    if len(names) > _MOST_COLUMNS:
        names = [POOLED]
    under_way = f"round {progress.round} of {progress.rounds}: " if progress.round else ""
    table = Table(
        title=f"{under_way}{doing(progress)} ({elapsed_s:.0f} s)",
        caption=f"right answers of each hospital on its own test questions: {' / '.join(progress.tasks)}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("round", justify="right")
    table.add_column("each hospital sent", justify="left")
    for name in names:
        table.add_column("all hospitals" if name is POOLED else str(name), justify="right")
    for number in range(progress.rounds + 1):
        table.add_row(*_row(progress, number, names))
    return table


def _row(progress: Progress, number: int, names: list[object]) -> list[str]:
    sent = "" if number == 0 or number > len(progress.closed) else _traffic(progress, number)
    first = "before" if number == 0 else str(number)
    if progress.round == number and progress.phase not in ("", "done"):
        first = f"> {first}"
    shares = [" / ".join(_share(progress, number, name, task) for task in progress.tasks) for name in names]
    return [first, sent, *(share.strip(" /") for share in shares)]
