"""Accuracies for the screen and for the JSON line."""

from __future__ import annotations

from collections.abc import Sequence

from fedvlm_secure import console
from fedvlm_secure.audit.summary import Accuracy


def show_accuracy(entries: Sequence[Accuracy], *, label: str | None = None) -> None:
    """A table: before training and at the last scored state, per task and hospital.

    Args:
        label: what these scores are, in a column of its own; where others are shown, too.
    """
    last_round = max((entry.round for entry in entries), default=0)
    found = {(entry.round, entry.task, entry.node): entry for entry in entries}
    places = dict.fromkeys((entry.task, entry.node) for entry in entries)
    rows = [
        [
            task,
            node or "all hospitals",
            shown(found.get((0, task, node))),
            shown(found.get((last_round, task, node))),
            *([] if label is None else [label]),
        ]
        for task, node in places
    ]
    columns = ["task", "hospital", "before training", f"after round {last_round}"]
    title = "right answers in free text, with 95 % interval"
    console.table(title, columns if label is None else [*columns, "these are"], rows)


def shown(entry: Accuracy | None) -> str:
    """One accuracy with its interval and counts, for a table."""
    if entry is None:
        return "-"
    interval = f"{100 * entry.low:.1f} to {100 * entry.high:.1f}"
    return f"{100 * entry.share:.1f} % ({interval}; {entry.correct} of {entry.total})"


def accuracy_by_round(entries: Sequence[Accuracy]) -> list[dict[str, object]]:
    """Per scored round (0 is before training): all hospitals together, and each hospital, by task."""
    return [_one_round([entry for entry in entries if entry.round == n]) for n in sorted({e.round for e in entries})]


def _one_round(entries: Sequence[Accuracy]) -> dict[str, object]:
    nodes = sorted({entry.node for entry in entries if entry.node is not None})
    return {
        "round": entries[0].round,
        "whole_test_set": all(entry.whole for entry in entries),
        "pooled": {entry.task: _counts(entry) for entry in entries if entry.node is None},
        "hospitals": {node: {entry.task: _counts(entry) for entry in entries if entry.node == node} for node in nodes},
    }


def _counts(entry: Accuracy) -> dict[str, object]:
    return {
        "accuracy": round(entry.share, 4),
        "interval_95": [round(entry.low, 4), round(entry.high, 4)],
        "correct": entry.correct,
        "total": entry.total,
        "constrained_accuracy": round(entry.constrained_share, 4),
    }
