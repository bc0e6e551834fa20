"""Accuracy beside epsilon: a hospital's exact local scores where its metrics file lies by, and released totals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedvlm_secure.audit.folder import AuditedRun
from fedvlm_secure.audit.standing import rounds_of
from fedvlm_secure.errors import StorageError

_METRICS = "metrics.jsonl"
_MAX_BYTES = 1 << 28

Source = Literal["local", "released", "noised"]
LABELS: Mapping[Source, str] = {
    "local": "exact, local, not released",
    "released": "released in the protected sum",
    "noised": "released, noised",
}


@dataclass(frozen=True)
class Utility:
    """Right answers of one kind of question after `round` closed rounds; 0 is before training.

    Args:
        correct, total: questions; of noised scores patients, which are no whole numbers. The total is above 0.
        deviation: standard deviation of the noise on right and on wrong answers, in patients; 0 for exact scores.
    """

    party: str
    round: int
    task: str
    correct: float
    total: float
    source: Source
    deviation: float = 0.0

    @property
    def share(self) -> float:
        """In [0, 1]: noise may carry the quotient beyond, where no accuracy lies."""
        return min(1.0, max(0.0, self.correct / self.total))

    @property
    def share_deviation(self) -> float:
        """Standard deviation of the noise in the share, to first order; 0 for exact scores."""
        return self.deviation * math.hypot(self.share, 1.0 - self.share) / self.total

    @property
    def counts(self) -> str:
        """The counts behind the share, in words."""
        if self.source != "noised":
            return f"{self.correct:.0f} of {self.total:.0f}"
        return (
            f"about {self.correct:.0f} of {self.total:.0f} patients; noise of +- {self.deviation:.1f} on each count is "
            f"+- {100 * self.share_deviation:.1f} points, one standard deviation"
        )


def utilities(audited: AuditedRun) -> tuple[Utility, ...]:
    """Every score that is there, by party, round and task. Local files are not signed; they are what they are.

    Raises:
        StorageError: METRICS_UNREADABLE.
    """
    found: list[Utility] = []
    for party, records in audited.chains.items():
        for closed in rounds_of(records):
            found += [  # counted at the state the round started from
                Utility(party, closed.round - 1, entry.task, entry.correct, entry.total, "released")
                for entry in closed.totals
                if entry.total
            ]
            found += [
                Utility(
                    party,
                    closed.round - 1,
                    entry.task,
                    entry.right,
                    entry.right + entry.wrong,
                    "noised",
                    entry.deviation,
                )
                for entry in closed.released
                if entry.right + entry.wrong > 0  # a small population may drown; its record keeps the numbers
            ]
        file = audited.files[party]
        beside = (file.parent / _METRICS, file.parent.parent.parent / _METRICS)
        for path in beside if party != "aggregator" else ():
            if path.is_file():
                found += _local(path, party, audited.run)
                break
    return tuple(sorted(set(found), key=lambda one: (one.party, one.round, one.task)))


def _local(path: Path, party: str, run: str) -> list[Utility]:
    """The last score of each round: the last state is scored on all questions after a sample."""
    latest: dict[int, dict[str, Any]] = {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        for line in path.read_bytes().rpartition(b"\n")[0].split(b"\n"):
            row = json.loads(line) if line else {}
            if row.get("run") == run:
                latest[int(row["round"])] = row
        return [
            Utility(party, number, str(task), int(score["correct"]), int(score["total"]), "local")
            for number, row in latest.items()
            for task, score in row["tasks"].items()
            if int(score["total"]) > 0
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            "METRICS_UNREADABLE", f"{path} is no metrics file", "move it away to report without accuracy"
        ) from error
