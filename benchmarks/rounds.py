"""Rows 10 and 10b: a whole round between real services on loopback, with and without protection; and its latency."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.case import Case, size_name
from benchmarks.loopback import CLEAR, ENCRYPTED, MASKED, Rounds, fsync_s, run_rounds
from benchmarks.row import Row, Target, at_most

PROTECTED_RATIO = at_most(1.1)
NODE_MEMORY = at_most(0.75, "value")
LATENCY_MS = {3: at_most(60, "value"), 20: at_most(500, "value")}
STUBBED = "real services as processes, real journals, TLS 1.3 on loopback; training is a fixed vector"


def cases(quick: bool) -> list[Case]:
    """The large round, and small ones for their latency."""
    large, rounds = (300_000, 4) if quick else (10_000_000, 6)
    small, nodes = (10_000, (3,)) if quick else (100_000, (3, 20))
    return [
        Case(f"round/n5-d{size_name(large)}", partial(protected, 5, large, rounds)),
        Case(f"round/n5-d{size_name(large)}-training", partial(beside_training, 5, large, 0.5 if quick else 5.0)),
        Case(f"round/bfv-n3-d{size_name(large)}", partial(encrypted, 3, large, 4)),
        *(Case(f"latency/n{n}-d{size_name(small)}", partial(latency, n, small, 12)) for n in nodes),
    ]


def protected(nodes: int, dimension: int, rounds: int) -> list[Row]:
    """The same run with masking and in clear, twice in turn; and what a hospital's process needs beyond its update."""
    masked: list[Rounds] = []
    clear: list[Rounds] = []
    for _ in range(2):
        masked.append(run_rounds(nodes=nodes, dimension=dimension, rounds=rounds))
        clear.append(run_rounds(nodes=nodes, dimension=dimension, rounds=rounds, policy=CLEAR))
    facts = {"nodes": nodes, "dimension": dimension, "rounds_measured": 2 * (rounds - 2), "how": STUBBED}
    size = f"n{nodes}-d{size_name(dimension)}"
    until_held = {
        "upload_held_after_s": _median([run.upload_s for run in masked]),
        "upload_held_after_s_without_protection": _median([run.upload_s for run in clear]),
    }
    return [
        _beside(f"round-over-tls/{size}", "s wall per round, without training", masked, clear, facts | until_held),
        _memory(f"memory/node-service-upload-{size}", dimension, _most(masked, 0), _most(clear, 0), NODE_MEMORY, facts),
        _memory(f"memory/node-service-result-{size}", dimension, _most(masked, 1), _most(clear, 1), None, facts),
        _memory(f"memory/aggregator-service-{size}", dimension, _most(masked, 2), _most(clear, 2), None, facts),
    ]


def beside_training(nodes: int, dimension: int, train_s: float) -> list[Row]:
    """The same where training takes a few seconds, in which masks can be expanded."""
    masked, clear = (
        run_rounds(nodes=nodes, dimension=dimension, rounds=4, policy=policy, train_s=train_s)
        for policy in (MASKED, CLEAR)
    )
    facts = {
        "nodes": nodes,
        "dimension": dimension,
        "training_s": train_s,
        "how": f"{STUBBED}, handed over after a sleep",
    }
    name = f"round-over-tls/n{nodes}-d{size_name(dimension)}-with-training"
    return [_beside(name, f"s wall per round, {train_s:g} s of training in it", [masked], [clear], facts)]


def encrypted(nodes: int, dimension: int, rounds: int) -> list[Row]:
    """The same round under homomorphic encryption beside masking: time, and memory of both services."""
    bfv, masked = (
        run_rounds(nodes=nodes, dimension=dimension, rounds=rounds, policy=policy) for policy in (ENCRYPTED, MASKED)
    )
    facts = {"nodes": nodes, "dimension": dimension, "rounds_measured": rounds - 2, "how": STUBBED}
    size, beside = f"bfv-n{nodes}-d{size_name(dimension)}", "with masking"
    with_s, without_s = _median([bfv.wall_s]), _median([masked.wall_s])
    return [
        Row(
            name=f"round-over-tls/{size}",
            value=with_s,
            unit="s wall per round, without training",
            against="s with masking",
            against_value=without_s,
            ratio=with_s / without_s,
            ratio_is="wall time encrypted over wall time masked",
            facts={**facts, "bfv_s": bfv.wall_s, "masked_s": masked.wall_s},
        ),
        *(
            _memory(f"memory/{what}-{size}", dimension, _most([bfv], part), _most([masked], part), None, facts, beside)
            for part, what in enumerate(("node-service-upload", "node-service-result", "aggregator-service"))
        ),
    ]


def _beside(name: str, unit: str, masked: list[Rounds], clear: list[Rounds], facts: Mapping[str, Any]) -> Row:
    with_s, without_s = _median([run.wall_s for run in masked]), _median([run.wall_s for run in clear])
    return Row(
        name=name,
        value=with_s,
        unit=unit,
        against="s without protection",
        against_value=without_s,
        ratio=with_s / without_s,
        ratio_is="wall time with masking over wall time without",
        target=PROTECTED_RATIO,
        facts={**facts, "masked_s": [run.wall_s for run in masked], "clear_s": [run.wall_s for run in clear]},
    )


def _median(by_run: Sequence[tuple[float, ...]]) -> float:
    """Without each run's first round, whose connections and files are new."""
    return statistics.median(seconds for run in by_run for seconds in run[1:])


def _most(runs: Sequence[Rounds], part: int) -> int:
    return max((run.upload_peak_bytes, run.result_peak_bytes, run.aggregator_peak_bytes)[part] for run in runs)


def _memory(
    name: str,
    dimension: int,
    peak: int,
    other: int,
    target: Target | None,
    facts: Mapping[str, Any],
    against: str = "without protection",
) -> Row:
    update_bytes = 4 * dimension
    return Row(
        name=name,
        value=peak / update_bytes,
        unit="of the update, beyond it",
        against=against,
        against_value=other / update_bytes,
        target=target,
        facts={**facts, "peak_beyond_bytes": peak, "update_bytes": update_bytes, "method": "VmHWM of the real process"},
    )


def latency(nodes: int, dimension: int, rounds: int) -> list[Row]:
    """Wall time of a round in which training takes none, journals and their fsyncs included."""
    with tempfile.TemporaryDirectory() as folder:
        one_fsync_s = fsync_s(Path(folder))
    run = run_rounds(nodes=nodes, dimension=dimension, rounds=rounds, memory=False)
    return [
        Row(
            name=f"latency/n{nodes}-d{size_name(dimension)}",
            value=_median([run.wall_s]) * 1e3,
            unit="ms wall per round",
            against="ms of one fsync on this disk",
            against_value=one_fsync_s * 1e3,
            target=LATENCY_MS.get(nodes),
            facts={"nodes": nodes, "dimension": dimension, "rounds_ms": [s * 1e3 for s in run.wall_s], "how": STUBBED},
        )
    ]
