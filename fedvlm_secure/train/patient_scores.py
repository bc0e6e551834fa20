"""How right the answers about each test patient are, summed so that nobody counts for more than one patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedvlm_secure.dp.score_release import score_pair
from fedvlm_secure.vlm.data.rows import Row
from fedvlm_secure.vlm.tasks.scores import Evaluation


@dataclass(frozen=True)
class PatientTotals:
    """Per task, over all test patients, in steps of 1/1024 patient; exact, so they stay where they are made."""

    right: Mapping[str, int]
    wrong: Mapping[str, int]


def by_patient(rows: Iterable[Row]) -> tuple[tuple[Row, ...], ...]:
    """The rows of each patient, patients in the order in which they first appear."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.patient].append(row)
    return tuple(tuple(group) for group in groups.values())


def patient_totals(scored: Iterable[Evaluation], tasks: Sequence[str]) -> PatientTotals:
    """Add up patients; one more or one less moves all numbers together by at most sqrt(tasks) patients in L2.

    Args:
        scored: the scores of one patient's rows each.
        tasks: kinds of questions that are released; others are left out.
    """
    right, wrong = dict.fromkeys(tasks, 0), dict.fromkeys(tasks, 0)
    for patient in scored:
        for task in tasks:
            score = patient.tasks.get(task)
            pair = (0, 0) if score is None else score_pair(score.correct, score.total)
            right[task] += pair[0]
            wrong[task] += pair[1]
    return PatientTotals(right, wrong)
