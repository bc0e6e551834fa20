"""Where a demo stands: the aggregator's public progress, and each hospital's own scores, read by who plays them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedvlm_secure.audit.summary import Accuracy, Sent
from fedvlm_secure.cli.consortium import Consortium
from fedvlm_secure.types import NodeId

POOLED = None
"""In place of a hospital: all of them together."""


@dataclass(frozen=True)
class Progress:
    """One look at a run.

    Args:
        phase: the aggregator's word for it; empty while processes start.
        round: the round under way, counted from 1; 0 before the first.
        uploaded: hospitals whose update of this round has arrived.
        closed: the aggregator's summaries of closed rounds.
        scores: (closed rounds, hospital) -> that line of the hospital's metrics file.
    """

    nodes: tuple[NodeId, ...]
    rounds: int
    phase: str
    round: int
    connected: tuple[str, ...]
    uploaded: tuple[str, ...]
    closed: tuple[Mapping[str, Any], ...]
    scores: Mapping[tuple[int, NodeId], Mapping[str, Any]]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(sorted({task for row in self.scores.values() for task in row["tasks"]}))

    @property
    def scored_rounds(self) -> tuple[int, ...]:
        """States that every hospital has scored."""
        rounds = sorted({number for number, _ in self.scores})
        return tuple(number for number in rounds if all((number, node) in self.scores for node in self.nodes))

    def accuracy(self, round_number: int, node: NodeId | None, task: str) -> Accuracy | None:
        """At one hospital, or over all of them; None while a hospital's score is missing or nothing was asked."""
        names = self.nodes if node is POOLED else (node,)
        rows = [self.scores.get((round_number, name)) for name in names]
        found = [row for row in rows if row is not None and task in row["tasks"]]
        if None in rows or not found:
            return None
        return _accuracy(round_number, node, task, found)

    def accuracies(self) -> Iterator[Accuracy]:
        """All there are, by round, task, hospital, each task's pooled one first."""
        for number in self.scored_rounds:
            for task in self.tasks:
                for node in (POOLED, *self.nodes):
                    entry = self.accuracy(number, node, task)
                    if entry is not None:
                        yield entry

    def sent(self, round_number: int) -> tuple[Sent, ...]:
        """What each hospital counted as sent in a round, 1 being the first; 0 is the set-up before it.

        A hospital counts from one scored state to the next: where the round before was not scored, its number is that
        of several rounds and is left out.
        """
        known = [node for node in self.nodes if not round_number or (round_number - 1, node) in self.scores]
        rows = ((node, self.scores.get((round_number, node))) for node in known)
        return tuple(
            Sent(node, int(row["upload_bytes"]), int(row["control_bytes"])) for node, row in rows if row is not None
        )


def read_progress(consortium: Consortium, rounds: int) -> Progress:
    """Look at the files that the processes write; nothing is asked of them."""
    public: Mapping[str, Any] = consortium.progress
    under_way = public.get("round")
    return Progress(
        nodes=tuple(consortium.members),
        rounds=rounds,
        phase=str(public.get("phase", "")),
        round=0 if under_way is None else int(under_way) + 1,
        connected=tuple(public.get("connected", ())),
        uploaded=tuple(public.get("uploaded", ())),
        closed=tuple(public.get("summaries", ())),
        scores={
            (int(row["round"]), node): row  # type: ignore[call-overload]
            for node, member in consortium.members.items()
            for row in member.metrics
        },
    )


def _accuracy(round_number: int, node: NodeId | None, task: str, rows: list[Mapping[str, Any]]) -> Accuracy:
    from fedvlm_secure.vlm.tasks.scores import wilson_interval

    correct, total = (sum(int(row["tasks"][task][count]) for row in rows) for count in ("correct", "total"))
    constrained = sum(
        int(entry["constrained_correct"]) for row in rows for entry in row["questions"] if entry["task"] == task
    )
    low, high = wilson_interval(correct, total)
    whole = all(bool(row["last"]) for row in rows)
    return Accuracy(round_number, node, task, correct, total, low, high, constrained, whole)
