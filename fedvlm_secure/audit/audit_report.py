"""The audit report of a run: audit-report.json and .csv for programs, .html for a privacy officer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedvlm_secure.audit.chart import COLOURS, DASHES, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Point, Tick
from fedvlm_secure.audit.empirical import read_empirical
from fedvlm_secure.audit.export import to_csv, to_json
from fedvlm_secure.audit.folder import AuditedRun
from fedvlm_secure.audit.isolation import isolations
from fedvlm_secure.audit.record import Round, Start
from fedvlm_secure.audit.report import page_environment, thin
from fedvlm_secure.audit.standing import Standing, rounds_of, standings, start_of
from fedvlm_secure.audit.utility import LABELS, Utility, utilities
from fedvlm_secure.policy.private_file import write_public

NAME = "audit-report"
MOST_ROWS = 60
MOST_POINTS = 200
_BOTTOM = 28


@dataclass(frozen=True)
class Chart:
    """One line per party over the rounds."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def write_audit_report(audited: AuditedRun, out: Path) -> tuple[Path, ...]:
    """Write OUT/audit-report.json, .csv and .html.

    Returns:
        The three paths.

    Raises:
        StorageError: FILE_UNWRITABLE, METRICS_UNREADABLE, EMPIRICAL_UNREADABLE.
    """
    scores = utilities(audited)
    made_at = max(records[-1].time for records in audited.chains.values())
    texts = {
        "json": to_json(audited, scores, made_at=made_at),
        "csv": to_csv(audited, scores),
        "html": render(audited, scores),
    }
    paths = []
    for kind, text in texts.items():
        path = out / f"{NAME}.{kind}"
        write_public(path, text.encode("utf-8"))
        paths.append(path)
    return tuple(paths)


def render(audited: AuditedRun, scores: Sequence[Utility]) -> str:
    """The page: self-contained, without script; every text in it is escaped and rid of control characters."""
    start = next((found for records in audited.chains.values() if (found := start_of(records)) is not None), None)
    everybody, empirical = standings(audited), read_empirical(audited.folder)
    hospitals = [one for one in everybody if one.party != "aggregator"]
    numbers = sorted({closed.round for records in audited.chains.values() for closed in rounds_of(records)})
    shown = thin(numbers, MOST_ROWS)
    return (
        page_environment()
        .get_template("audit.html.j2")
        .render(
            audited=audited,
            start=start,
            terms=None if start is None else start.privacy,
            everybody=everybody,
            hospitals=hospitals,
            costliest=max((one.epsilon for one in hospitals if one.epsilon is not None), default=None),
            costliest_readers=max((one.readers for one in hospitals if one.readers is not None), default=None),
            costliest_worst=_worst(hospitals),
            least_left=min((one.remaining for one in hospitals if one.remaining is not None), default=None),
            isolations=isolations(audited),
            empirical=None if empirical is None else empirical.for_run(start),
            refuted=empirical is not None and empirical.refuted,
            unbounded=[one.party for one in hospitals if one.unbounded],
            last_time=max(records[-1].time for records in audited.chains.values()),
            charts=[
                chart for chart in (_epsilon_chart(audited, start), _utility_chart(audited, scores)) if chart.lines
            ],
            rounds=[(number, _row(audited, number)) for number in shown],
            thinned=len(shown) < len(numbers),
            sources=sorted({LABELS[one.source] for one in scores}),
            latest=_latest(scores),
            labels=LABELS,
            paper={"WIDTH": WIDTH, "HEIGHT": HEIGHT, "LEFT": LEFT, "RIGHT": RIGHT},
        )
    )


def _worst(hospitals: Sequence[Standing]) -> float | None:
    """The largest epsilon if every other party is dishonest; None where one of them has no bound."""
    stated = [one.worst_case for one in hospitals if one.epsilon is not None]
    return max((one for one in stated if one is not None), default=None) if None not in stated else None


def _row(audited: AuditedRun, number: int) -> dict[str, Round]:
    return {
        party: closed
        for party, records in audited.chains.items()
        for closed in rounds_of(records)
        if closed.round == number
    }


def _latest(scores: Sequence[Utility]) -> list[tuple[Utility, Utility]]:
    """First and last score of each party and task."""
    grouped: dict[tuple[str, str], list[Utility]] = {}
    for one in scores:
        grouped.setdefault((one.party, one.task), []).append(one)
    return [(found[0], found[-1]) for found in grouped.values()]


def _epsilon_chart(audited: AuditedRun, start: Start | None) -> Chart:
    """Epsilon of the run, and of everything ever spent by each population."""
    series: dict[str, list[tuple[int, float, str]]] = {}
    for party, records in audited.chains.items():
        for closed in rounds_of(records):
            spending = closed.spending
            if spending is None or spending.epsilon_run is None or party == "aggregator":
                continue
            text = f"round {closed.round}: {spending.epsilon_run:.3f}"
            series.setdefault(f"{party}, this run", []).append((closed.round, spending.epsilon_run, text))
    delta = "" if start is None or start.privacy is None else f" at delta {start.privacy.delta:g}"
    return _chart(f"Epsilon per patient{delta}", "", series)


def _utility_chart(audited: AuditedRun, scores: Sequence[Utility]) -> Chart:
    """Accuracy over all tasks, per party."""
    counts: dict[str, dict[int, tuple[float, float]]] = {}
    for one in scores:
        right, asked = counts.setdefault(one.party, {}).get(one.round, (0.0, 0.0))
        counts[one.party][one.round] = (right + one.share * one.total, asked + one.total)
    series = {
        party: [
            (number, 100 * right / asked, f"round {number}: {100 * right / asked:.1f} % of {asked:.0f}")
            for number, (right, asked) in sorted(by_round.items())
        ]
        for party, by_round in counts.items()
    }
    return _chart("Accuracy, percent right", "%", series, top=100.0)


def _chart(title: str, unit: str, series: dict[str, list[tuple[int, float, str]]], top: float | None = None) -> Chart:
    values = [value for points in series.values() for _, value, _ in points]
    highest = top or max(values, default=1.0) or 1.0
    last = max((number for points in series.values() for number, _, _ in points), default=1)
    lines = []
    for at, (label, points) in enumerate(list(series.items())[: len(COLOURS)]):
        kept = [points[index] for index in thin(range(len(points)), MOST_POINTS)]
        drawn = tuple(
            Point(_x(number, last), _y(value / highest), _y(value / highest), _y(value / highest), text)
            for number, value, text in kept
        )
        lines.append(Line(label, COLOURS[at], DASHES[at], False, drawn))
    step = max(1, -(-last // 10))
    x_ticks = tuple(Tick(_x(number, last), str(number)) for number in range(0, last + 1, step))
    y_ticks = tuple(Tick(_y(part / 4), f"{highest * part / 4:.3g}") for part in range(5))
    return Chart(title, unit, tuple(lines), x_ticks, y_ticks)


def _x(number: int, last: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * number / max(1, last)


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - _BOTTOM) * (1.0 - share)
