"""Scores that left the hospitals, noised, for the screen and for the JSON line, beside the exact ones that stayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedvlm_secure import console
from fedvlm_secure.audit.summary import Accuracy
from fedvlm_secure.audit.utility import LABELS, Utility
from fedvlm_secure.cli.accuracy import show_accuracy, shown
from fedvlm_secure.policy.schema import Policy

DROWNED = "the noise is larger than the counts"


@dataclass(frozen=True)
class ReleasedScore:
    """Noised right and wrong answers of one task over all hospitals in a sum, as anybody may know them.

    Args:
        round: closed rounds of the model that was asked; 0 is before training.
        right, wrong: test patients, each counted in the share of its questions; noise may make them negative.
        deviation: standard deviation of the noise in either, known from the policy and the number of hospitals.
    """

    round: int
    task: str
    right: float
    wrong: float
    deviation: float

    @property
    def utility(self) -> Utility | None:
        """The share with its deviation; None where the noise drowned the counts."""
        asked = self.right + self.wrong
        if asked <= 0:
            return None
        return Utility("aggregator", self.round, self.task, self.right, asked, "noised", self.deviation)


def released_scores(closed: Sequence[Mapping[str, Any]]) -> tuple[ReleasedScore, ...]:
    """What the closed rounds released, of the model that entered each.

    Args:
        closed: the `summaries` of `AggregatorRun.progress`, rounds counted from 0.
    """
    return tuple(
        ReleasedScore(int(entry["round"]), task, **numbers)
        for entry in closed
        for task, numbers in sorted(entry.get("released", {}).items())
    )


def show_scores(policy: Policy, exact: Sequence[Accuracy], closed: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Print every score that who plays all hospitals has, each labelled where some of them were released.

    Args:
        exact: of the hospitals' own test questions.
        closed: as `released_scores`.

    Returns:
        The fields `accuracy_source` and `released_scores` of the JSON line; none where the policy releases no
        noised scores.
    """
    if not policy.evaluation.is_noised:
        show_accuracy(exact)
        return {}
    show_accuracy(exact, label=LABELS["local"])
    scores = released_scores(closed)
    _show_released(scores, exact)
    return {"accuracy_source": LABELS["local"], "released_scores": _as_json(scores)}


def _show_released(scores: Sequence[ReleasedScore], exact: Sequence[Accuracy]) -> None:
    """A table: what is known outside the hospitals, and what only who plays all of them can put beside it."""
    if not scores:
        console.say("no scores were released: no round that carries them was closed with a result")
        return
    pooled = {(entry.round, entry.task): entry for entry in exact if entry.node is None}
    rows = [
        [
            one.task,
            "before training" if one.round == 0 else f"after round {one.round}",
            _noised(one),
            shown(pooled.get((one.round, one.task))),
        ]
        for one in scores
    ]
    title = "right answers of all hospitals: patients of the released scores, questions of the exact ones"
    console.table(title, ("task", "model", LABELS["noised"], LABELS["local"]), rows)


def _noised(one: ReleasedScore) -> str:
    score = one.utility
    if score is None:
        return f"{DROWNED} (right {one.right:.1f}, wrong {one.wrong:.1f}, each +- {one.deviation:.1f} patients)"
    return f"{100 * score.share:.1f} % ({score.counts})"


def _as_json(scores: Sequence[ReleasedScore]) -> list[dict[str, object]]:
    """Per released model, numbers and deviations by task."""
    return [
        {
            "round": number,
            "source": LABELS["noised"],
            "tasks": {one.task: _fields(one) for one in scores if one.round == number},
        }
        for number in sorted({one.round for one in scores})
    ]


def _fields(one: ReleasedScore) -> dict[str, object]:
    score = one.utility
    return {
        "accuracy": None if score is None else round(score.share, 4),
        "accuracy_deviation": None if score is None else round(score.share_deviation, 4),
        "right": one.right,
        "wrong": one.wrong,
        "deviation": one.deviation,
    }
