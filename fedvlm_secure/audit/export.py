"""The audit report for programs: one CSV row per party and round, and one JSON document."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from fedvlm_secure.audit.empirical import read_empirical
from fedvlm_secure.audit.folder import AuditedRun
from fedvlm_secure.audit.isolation import isolations
from fedvlm_secure.audit.record import Round
from fedvlm_secure.audit.standing import rounds_of, standings, start_of
from fedvlm_secure.audit.utility import LABELS, Utility

FORMAT = 1
COLUMNS = (
    "party",
    "round",
    "outcome",
    "time",
    "survivors",
    "epsilon_round",
    "epsilon_run",
    "epsilon_readers",
    "epsilon_worst_case",
    "delta",
    "epsilon_population",
    "delta_population",
    "limit",
    "remaining",
    "accuracy",
    "accuracy_source",
    "model_after",
    "isolated",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(audited: AuditedRun, scores: Sequence[Utility]) -> str:
    """Epsilon beside utility: accuracy over all tasks after each round, with where it comes from.

    A cell that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    tasks = sorted({one.task for one in scores})
    writer.writerow([*COLUMNS, *(safe_cell(f"accuracy: {task}") for task in tasks)])
    for party, records in audited.chains.items():
        times = {record.body.round: record.time for record in records if isinstance(record.body, Round)}
        start = start_of(records)
        delta = None if start is None or start.privacy is None else start.privacy.delta
        for closed in rounds_of(records):
            here = [one for one in scores if (one.party, one.round) == (party, closed.round)]
            cells = _row(party, times[closed.round], closed, delta, here)
            by_task = {one.task: one.share for one in here}
            writer.writerow([safe_cell(cell) for cell in (*cells, *(by_task.get(task) for task in tasks))])
    return out.getvalue()


def _row(party: str, time: str, closed: Round, delta: float | None, here: Sequence[Utility]) -> tuple[object, ...]:
    spending = closed.spending
    purse = None if spending is None else spending.purse
    asked = sum(one.total for one in here)
    return (
        party,
        closed.round,
        closed.outcome,
        time,
        None if closed.survivors is None else len(closed.survivors),
        None if spending is None else spending.epsilon_round,
        None if spending is None else spending.epsilon_run,
        None if spending is None else spending.epsilon_readers,
        None if spending is None else spending.epsilon_worst_case,
        delta,
        None if purse is None else purse.epsilon,
        None if purse is None else purse.delta,
        None if purse is None else purse.limit,
        None if purse is None else purse.remaining,
        sum(one.correct for one in here) / asked if asked else None,
        LABELS[here[0].source] if here else None,
        closed.model_after,
        None if closed.isolated is None else " ".join(closed.isolated) or "nobody",
    )


def safe_cell(value: object) -> str:
    """A cell's text: nothing in it acts in a spreadsheet, and no control character passes."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = "".join(character if character.isprintable() else "?" for character in str(value))
    return "'" + text if str(value).lstrip(" ").startswith(_FORMULA) else text


def to_json(audited: AuditedRun, scores: Sequence[Utility], *, made_at: str) -> str:
    """Everything: verdict, standings, every record as signed, scores."""
    empirical = read_empirical(audited.folder)
    fields: dict[str, Any] = {
        "format": FORMAT,
        "made_at": made_at,
        "run": audited.run,
        "roster": audited.roster.fingerprint,
        "verified": not audited.findings,
        "findings": [
            {"party": one.party, "index": one.index, "field": one.field, "cause": one.cause} for one in audited.findings
        ],
        "absent": list(audited.absent),
        "isolated": [one.as_json() for one in isolations(audited)],
        "empirical_audit": None if empirical is None else empirical.model_dump(mode="json"),
        "parties": {one.party: one.as_json() for one in standings(audited)},
        "utility": [
            {
                "party": one.party,
                "round": one.round,
                "task": one.task,
                "correct": one.correct,
                "total": one.total,
                "share": one.share,
                "share_deviation": one.share_deviation,
                "source": LABELS[one.source],
            }
            for one in scores
        ],
        "records": {
            party: [record.model_dump(mode="json") for record in records] for party, records in audited.chains.items()
        },
    }
    return json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
