"""Exact match, counted per task and per question, with a Wilson interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedvlm_secure.vlm.data.rows import Row
from fedvlm_secure.vlm.tasks.answers import Answer

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """Counts of one task or question.

    Args:
        correct: answers whose freely generated text matches exactly.
        total: questions asked.
        constrained_correct: the same when decoding is held to the allowed answers.

    Raises:
        ValueError: counts outside 0..total.
    """

    correct: int
    total: int
    constrained_correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or not 0 <= self.constrained_correct <= self.total:
            raise ValueError("a score counts between 0 and its total")

    def __add__(self, other: Score) -> Score:
        return Score(
            self.correct + other.correct,
            self.total + other.total,
            self.constrained_correct + other.constrained_correct,
        )

    @property
    def accuracy(self) -> float:
        """Share of exact matches of free text; 0 when nothing was asked."""
        return self.correct / self.total if self.total else 0.0

    @property
    def constrained_accuracy(self) -> float:
        """The second column."""
        return self.constrained_correct / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the accuracy (Wilson 1927); (0, 1) when nothing was asked."""
        return wilson_interval(self.correct, self.total)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one hospital's test rows, per task and per (task, question)."""

    tasks: Mapping[str, Score]
    questions: Mapping[tuple[str, str], Score]

    def as_json(self) -> dict[str, object]:
        """Numbers for a metrics file: accuracy, interval and counts per task, counts per question."""
        return {
            "tasks": {
                task: {
                    "accuracy": score.accuracy,
                    "interval_95": list(score.interval),
                    "correct": score.correct,
                    "total": score.total,
                    "constrained_accuracy": score.constrained_accuracy,
                }
                for task, score in self.tasks.items()
            },
            "questions": [
                {
                    "task": task,
                    "question": question,
                    "correct": score.correct,
                    "total": score.total,
                    "constrained_correct": score.constrained_correct,
                }
                for (task, question), score in self.questions.items()
            ],
        }


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % score interval of a share.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = correct / total, _Z95**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = _Z95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def exact_match(said: str, answer: str) -> bool:
    """Equal text, but for letter case and the amount of white space."""
    return " ".join(said.casefold().split()) == " ".join(answer.casefold().split())


def score_answers(rows: Sequence[Row], answers: Sequence[Answer]) -> Evaluation:
    """Count matches.

    Args:
        rows: n questions.
        answers: n answers, in the same order.
    """
    tasks: dict[str, Score] = defaultdict(lambda: Score(0, 0, 0))
    questions: dict[tuple[str, str], Score] = defaultdict(lambda: Score(0, 0, 0))
    for row, said in zip(rows, answers, strict=True):
        one = Score(int(exact_match(said.free, row.answer)), 1, int(exact_match(said.constrained, row.answer)))
        tasks[row.task] += one
        questions[row.task, row.question] += one
    return Evaluation(dict(sorted(tasks.items())), dict(sorted(questions.items())))
