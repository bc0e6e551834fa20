"""What is shown while a run goes on."""

from __future__ import annotations

from typing import Any

import pytest

from fedvlm_secure.cli.live import LineView, counted_bytes, doing, round_line
from fedvlm_secure.cli.progress import POOLED, Progress
from fedvlm_secure.types import NodeId

NODES = (NodeId("a"), NodeId("b"), NodeId("c"))


def score(correct: int, total: int, *, last: bool = False) -> dict[str, Any]:
    question = {"task": "vqa", "question": "Q", "correct": correct, "total": total, "constrained_correct": total}
    task = {"accuracy": correct / total, "correct": correct, "total": total}
    return {"tasks": {"vqa": task}, "questions": [question], "last": last, "upload_bytes": 700, "control_bytes": 9}


def progress(scores: dict[tuple[int, NodeId], dict[str, Any]], closed: int = 0, phase: str = "upload") -> Progress:
    rounds = tuple(
        {"round": n, "attempt": 0, "void": False, "survivors": list(NODES), "upload_bytes": 670, "plain_bytes": 1000}
        for n in range(closed)
    )
    return Progress(NODES, 3, phase, closed + 1, NODES, ("a",), rounds, scores)


def test_pooled_accuracy_adds_counts_and_does_not_average_shares() -> None:
    at = progress({(0, NODES[0]): score(1, 1), (0, NODES[1]): score(0, 98), (0, NODES[2]): score(1, 1)})
    pooled = at.accuracy(0, POOLED, "vqa")
    assert pooled is not None
    assert (pooled.correct, pooled.total, pooled.constrained_correct) == (2, 100, 100)
    # Wilson 95 % of 2 in 100, as tabulated for this interval: 0.0055 to 0.0700.
    assert (pooled.low, pooled.high) == (pytest.approx(0.0055, abs=5e-5), pytest.approx(0.0700, abs=5e-5))


def test_round_is_not_shown_before_every_hospital_has_scored_it() -> None:
    at = progress({(0, NODES[0]): score(1, 2), (0, NODES[1]): score(1, 2)})
    assert at.scored_rounds == ()
    assert at.accuracy(0, POOLED, "vqa") is None
    assert list(at.accuracies()) == []


def test_score_on_a_sample_is_told_from_the_whole_test_set() -> None:
    at = progress({(3, node): score(1, 2, last=node != "b") for node in NODES})
    pooled = at.accuracy(3, POOLED, "vqa")
    assert pooled is not None
    assert not pooled.whole


def test_lines_come_once_per_round_and_only_when_all_of_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView()
    scores = {(0, node): score(1, 2) for node in NODES}
    view.show(progress({}, phase="gather"), 1.0)
    view.show(progress(scores), 2.0)
    scores |= {(1, node): score(2, 2) for node in NODES}
    view.show(progress(scores, closed=0), 3.0)  # the aggregator has not closed the round yet
    view.show(progress(scores, closed=1), 4.0)
    view.show(progress(scores, closed=1), 5.0)
    view.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "   1.0 s  waiting for the hospitals",
        "   2.0 s  training, 1 of 3 updates are here",
        "   2.0 s  before training | vqa: a 50 %, b 50 %, c 50 %",
        "   4.0 s  round 1 of 3 | 3 hospitals, 700 B each (0.70 of plain) | vqa: a 100 %, b 100 %, c 100 %",
    ]


def test_round_without_result_says_so() -> None:
    at = progress({(1, node): score(1, 2) for node in NODES}, closed=1)
    void = {"round": 0, "attempt": 7, "void": True, "survivors": []}
    shown = round_line(Progress(NODES, 3, "upload", 2, NODES, (), (void,), at.scores), 1)
    assert "no result" in shown


def test_phase_of_a_later_version_is_shown_as_it_is() -> None:
    assert doing(progress({}, phase="weighing")) == "weighing"


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (254_997, "255 kB"), (1_500_000, "1.5 MB")]
)
def test_bytes_are_decimal(size: int, shown: str) -> None:
    assert counted_bytes(size) == shown


def test_bytes_that_a_hospital_counted_over_several_rounds_are_not_shown_as_one_rounds() -> None:
    """Scored after rounds 1 and 3 alone: what was counted by round 3 is of two rounds; the vector's length stands."""
    scores = {(number, node): score(1, 2) for number in (0, 1, 3) for node in NODES}
    at = progress(scores, closed=3)
    assert [len(at.sent(number)) for number in (0, 1, 2, 3)] == [3, 3, 0, 0]
    assert "700 B each (0.70 of plain)" in round_line(at, 1) and "670 B each (0.67 of plain)" in round_line(at, 3)
