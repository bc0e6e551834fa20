"""The report of a run: report.json for programs, report.html for people, both from one summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedvlm_secure.audit import chart
from fedvlm_secure.audit.summary import Accuracy, RunSummary, to_json
from fedvlm_secure.policy.private_file import write_public

if TYPE_CHECKING:
    from jinja2 import Environment

TASK_NAMES = {"vqa": "Visual question answering", "classification": "Classification"}
JSON_FILE = "report.json"
HTML_FILE = "report.html"
MOST_COLUMNS = 11
_TEMPLATES = Path(__file__).parent / "templates"
_NBSP = "\N{NO-BREAK SPACE}"


def write_report(summary: RunSummary, out: Path) -> Path:
    """Write OUT/report.json and OUT/report.html.

    Returns:
        The path of the page.

    Raises:
        StorageError: FILE_UNWRITABLE.
    """
    write_public(out / JSON_FILE, to_json(summary).encode("utf-8"))
    page = out / HTML_FILE
    write_public(page, render(summary).encode("utf-8"))
    return page


def render(summary: RunSummary) -> str:
    """The page: self-contained, without script; every text in it is escaped and rid of control characters."""
    scored = sorted({entry.round for entry in summary.accuracy})
    shown = thin(scored, MOST_COLUMNS)
    charts = [chart.chart(summary, task) for task in summary.tasks]
    return (
        page_environment()
        .get_template("run.html.j2")
        .render(
            run=summary,
            charts=charts,
            paper=chart,
            nodes=[None, *(party.name for party in summary.hospitals)],
            scored=shown,
            thinned=len(shown) < len(scored),
            constrained_differs=any(entry.constrained_correct != entry.correct for entry in summary.accuracy),
            masked=summary.policy.protection != "none",
            most_upload=max((sent.upload_bytes for entry in summary.rounds for sent in entry.sent), default=None),
        )
    )


def page_environment() -> Environment:
    """Where pages are made: everything is escaped, and control and direction characters are replaced."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "interval": _interval, "count": _count, "task": _task}
    return environment


def thin(rounds: Sequence[int], most: int) -> list[int]:
    """At most `most` (2 or more) of the rounds, evenly spread, the first and the last among them."""
    if len(rounds) <= most:
        return list(rounds)
    return [rounds[round(at * (len(rounds) - 1) / (most - 1))] for at in range(most)]


def _printable(value: Any) -> Any:
    """Text without control and direction characters; what Jinja has made safe already (macros) is left alone."""
    if type(value) is not str:
        return value
    return "".join(character if character.isprintable() or character == _NBSP else "?" for character in value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}{_NBSP}%"


def _task(name: str) -> str:
    return TASK_NAMES.get(name, name)


def _interval(entry: Accuracy) -> str:
    return f"{100 * entry.low:.1f} to {100 * entry.high:.1f}"


def _count(number: int) -> str:
    return f"{number:,}"
