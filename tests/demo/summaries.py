"""Summaries of runs that never were, for the report's tests."""

from __future__ import annotations

from fedvlm_secure.audit.summary import (
    Accuracy,
    Party,
    PolicyFacts,
    RoundSummary,
    RunSummary,
    Sent,
    Sight,
)


def summary(*, hospitals: int = 3, rounds: int = 2) -> RunSummary:
    """A plain run."""
    names = [f"h-{at}" for at in range(hospitals)]
    accuracies = [
        Accuracy(number, node, task, 10 + number, 100, 0.05, 0.25, 11 + number, number == rounds)
        for number in range(rounds + 1)
        for task in ("classification", "vqa")
        for node in (None, *names)
    ]
    return RunSummary(
        run="ab" * 16,
        made_at="2026-01-02T03:04:05+00:00",
        software="fedvlm-secure 0",
        policy=PolicyFacts("trial", "cd" * 32, rounds, "fedavg", "lora", "tiny", "ef" * 32, "masking", "none"),
        data="files of somewhere",
        note="",
        dimension=1000,
        threshold=2,
        colluding=0,
        roster="11111 22222",
        aggregator=Party("aggregator", "00000 11111", "a1"),
        hospitals=tuple(Party(name, "33333 44444", "b2") for name in names),
        rounds=tuple(
            RoundSummary(n, 1, False, tuple(names), (), 2672, 4000, 0.5, tuple(Sent(name, 2700, 900) for name in names))
            for n in range(1, rounds + 1)
        ),
        accuracy=tuple(accuracies),
        question_limit=200,
        visibility=(Sight("the aggregator", "only the sum"),),
        unprotected=("the tuned model",),
        seconds={"total": 1.5},
    )
