"""Row 6: peak memory of each stage beyond what it was handed, each in a process of its own.

python -m benchmarks.peak_memory node|aggregator NODES DIMENSION     # prints one JSON object
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.case import Case, size_name
from benchmarks.masked_round import CTX, MaskedRound, in_chunks, update_of
from benchmarks.measure import peak_beyond
from benchmarks.row import Row, at_most
from fedvlm_secure.rounds.node_upload import draft_masked
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.store.spool import FileSpool

NODE_MEMORY = at_most(0.75, "value")
CHUNKS_IN_FLIGHT_BYTES = 8 << 20
_LONGEST_S = 600.0


def cases(quick: bool) -> list[Case]:
    """The node at one cohort size, the aggregator at several: its memory must not grow with them."""
    dimension = 4_000_000 if quick else 10_000_000
    sizes = (5,) if quick else (5, 20, 100)
    return [
        Case(f"memory/node-d{size_name(dimension)}", partial(node, 5, dimension)),
        *(Case(f"memory/aggregator-n{n}-d{size_name(dimension)}", partial(aggregator, n, dimension)) for n in sizes),
    ]


def node(nodes: int, dimension: int) -> list[Row]:
    """One upload as a service makes it, with and without masks that were expanded ahead."""
    found = _in_a_child("node", nodes, dimension)
    update_bytes = 4 * dimension
    by_stage = {name: peak / update_bytes for name, peak in found.items()}
    return [
        Row(
            name=f"memory/node-{name}-n{nodes}-d{size_name(dimension)}",
            value=peak,
            unit="of the update, beyond it",
            target=NODE_MEMORY,
            facts=_facts(nodes, dimension),
        )
        for name, peak in by_stage.items()
    ]


def aggregator(nodes: int, dimension: int) -> list[Row]:
    """Sum and unmask, from uploads on disk; then decode."""
    found = _in_a_child("aggregator", nodes, dimension)
    accumulator = MaskedRound(nodes, dimension).vector.words * 8
    by_stage = {name: peak / accumulator for name, peak in found.items()}
    facts = {**_facts(nodes, dimension), "accumulator_bytes": accumulator, "by_stage_of_the_accumulator": by_stage}
    return [
        Row(
            name=f"memory/aggregator-n{nodes}-d{size_name(dimension)}",
            value=max(by_stage["sum"], 1.0 + by_stage["unmask"]),
            unit="accumulators",
            target=at_most(1.0 + CHUNKS_IN_FLIGHT_BYTES / accumulator, "value"),
            facts={**facts, "covers": f"sum and unmask; at most {CHUNKS_IN_FLIGHT_BYTES >> 20} MiB beside it"},
        )
    ]


def _facts(nodes: int, dimension: int) -> dict[str, Any]:
    return {"nodes": nodes, "dimension": dimension, "method": "VmHWM of a child process, set back before each stage"}


def _in_a_child(side: str, nodes: int, dimension: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.peak_memory", side, str(nodes), str(dimension)]
    root = Path(__file__).resolve().parents[1]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, cwd=root, check=False)
    if ran.returncode:
        raise RuntimeError(f"the {side}'s process ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")
    found: dict[str, int] = json.loads(ran.stdout)
    return found


def measure_node(nodes: int, dimension: int) -> dict[str, int]:
    """Bytes while an upload is encoded, masked, hashed and journalled; masks on the way, or all expanded before."""
    _warm_up(nodes)
    made = MaskedRound(nodes, dimension)
    masks = made.masks(made.keys(made.cohort.nodes[0]))
    update = update_of(0, dimension)
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal")
        _, streamed = peak_beyond(lambda: draft_masked(journal, made.encoded(update), masks.stream()))
        _, ahead = peak_beyond(lambda: draft_masked(journal, made.encoded(update), masks.expand()))
        journal.close()
    return {"streamed": streamed, "ahead": ahead}


def measure_aggregator(nodes: int, dimension: int) -> dict[str, int]:
    """Bytes by stage, a fifth of the hospitals lost."""
    _warm_up(nodes)
    made = MaskedRound(nodes, dimension, nodes // 5)
    unmasking, reveals = made.unmasking()
    with tempfile.TemporaryDirectory() as folder:
        spool = FileSpool(Path(folder) / "spool")
        for at, name in enumerate(made.survivors):
            for chunk in in_chunks(made.upload(name, made.encode(update_of(at, dimension)))):
                spool.append(CTX, name, chunk)
        vectors = {name: spool.chunks(CTX, name) for name in made.survivors}
        total, added = peak_beyond(lambda: unmasking.sum_masked(vectors, made.vector.words))
    _, removed = peak_beyond(lambda: unmasking.remove_masks(total, reveals))
    _, decoded = peak_beyond(lambda: made.decode(total))
    return {"sum": added, "unmask": removed, "decode": decoded}


def _warm_up(nodes: int) -> None:
    """Load once what does not grow with the vector: code above all."""
    made = MaskedRound(nodes, 1000)
    masks = made.masks(made.keys(made.cohort.nodes[0]))
    with tempfile.TemporaryDirectory() as folder:
        journal = SqliteJournal(Path(folder) / "journal")
        draft_masked(journal, made.encoded(update_of(0, 1000)), masks.stream())
        journal.close()


def main() -> None:
    side, nodes, dimension = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    measure = {"node": measure_node, "aggregator": measure_aggregator}[side]
    print(json.dumps(measure(nodes, dimension)))


if __name__ == "__main__":
    main()
