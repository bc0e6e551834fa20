"""Row 6, after the sum: peak memory of the server step, at the aggregator and where a node replays it.

python -m benchmarks.server_step POLICY DIMENSION     # prints one JSON object
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, size_name
from benchmarks.masked_round import in_chunks
from benchmarks.measure import peak_beyond, timed
from benchmarks.row import Row, at_most
from fedvlm_secure.policy.loading import load_policy
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.closing import Step, initial_state, next_state
from fedvlm_secure.rounds.journal_records import JournalRecords
from fedvlm_secure.rounds.manifest import make_manifest
from fedvlm_secure.rounds.start import new_start
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.rounds.vectors import as_bytes, as_words, chunks_of
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.store.attachment import FileAttachment
from fedvlm_secure.store.blobs import FileBlobs
from fedvlm_secure.store.journal import SqliteJournal
from fedvlm_secure.types import Digest, NodeId, Words

POLICIES = Path(__file__).resolve().parents[1] / "policies"
NODES = tuple(NodeId(f"node-{at:03d}") for at in range(5))
CHUNKS_IN_FLIGHT_BYTES = 12 << 20
_LONGEST_S = 600.0


def cases(quick: bool) -> list[Case]:
    """Plain averaging, and the algorithm with the most memory."""
    dimension = 1_000_000 if quick else 10_000_000
    return [
        Case(f"memory/step-{policy}-d{size_name(dimension)}", partial(steps, policy, dimension))
        for policy in ("fedavg", "fedadam")
    ]


def steps(policy: str, dimension: int) -> list[Row]:
    """One round's step and closing; whatever is made and not needed after it stays in chunks."""
    command = [sys.executable, "-m", "benchmarks.server_step", policy, str(dimension)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, cwd=POLICIES.parent, check=False)
    if ran.returncode:
        raise RuntimeError(f"the step's process ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    update_bytes = 4 * dimension
    made = {
        "aggregator-step": found["state_bytes"],
        "aggregator-close": 0,
        "node-replay": found["state_bytes"] + found["sum_bytes"],
    }
    return [
        Row(
            name=f"memory/{stage}-{policy}-d{size_name(dimension)}",
            value=found["stages"][stage]["peak_bytes"] / update_bytes,
            unit="of the update",
            target=at_most((bytes_made + CHUNKS_IN_FLIGHT_BYTES) / update_bytes, "value"),
            facts={
                "dimension": dimension,
                "made_in_memory_of_the_update": bytes_made / update_bytes,
                "cpu_s": found["stages"][stage]["cpu_s"],
                "covers": f"what is made in memory, at most {CHUNKS_IN_FLIGHT_BYTES >> 20} MiB beside it",
                "method": "VmHWM of a child process, set back before each stage",
            },
        )
        for stage, bytes_made in made.items()
    ]


@dataclass(frozen=True)
class _Parties:
    """What both sides hold when the sum is there."""

    policy: Policy
    manifest: Manifest
    records: JournalRecords
    blobs: FileBlobs

    def step(self, total: Words, key: str) -> Step:
        """The step from the stored state, its digest, and its way into the journal."""
        before = self.records.state_at("state")
        step = next_state(self.policy, self.manifest, before, total, len(NODES), round_number=0)
        if step.state.digest == before.digest:
            raise RuntimeError("the step moved nothing")
        self.records.commit({key: step.state})
        return step

    def close(self) -> None:
        """The aggregator's closing: the next state becomes the state, and what nodes that were away take over."""
        self.records.commit({"state": self.records.state_at("next-state")})
        vector = self.records.journal.vector("state")
        if vector is not None:
            self.blobs.put(chunks_of(vector))


def measure(policy: Policy, dimension: int, folder: Path) -> dict[str, Any]:
    """Bytes and CPU seconds by stage."""
    manifest = make_manifest(
        policy,
        run_id=bytes(16),
        nodes=NODES,
        base_fingerprint=Digest(bytes(32)),
        layout_digest=Digest(bytes(32)),
        dimension=dimension,
        aggregator=bytes(32),
        start_epoch=0,
        start=new_start(policy, dimension),
    )
    journal = SqliteJournal(folder / "journal")
    parties = _Parties(policy, manifest, JournalRecords(journal), FileBlobs(folder / "blobs"))
    parties.records.commit({"state": initial_state(policy, dimension)})
    total = _sum_of(manifest)
    attachment = FileAttachment(folder / "attachments")
    for chunk in in_chunks(bytes(as_bytes(total))):
        attachment.append(chunk)
    stages = {
        "node-replay": _measured(lambda: parties.step(as_words(attachment), "replayed")),
        "aggregator-step": _measured(lambda: parties.step(total, "next-state")),
        "aggregator-close": _measured(parties.close),
    }
    state_bytes = parties.records.state_at("state").form.size_bytes
    if journal.get("replayed") != journal.get("state"):
        raise RuntimeError("the two sides came to different states")
    journal.close()
    return {"stages": stages, "state_bytes": state_bytes, "sum_bytes": total.nbytes}


def _measured(act: Callable[[], object]) -> dict[str, float]:
    (_, cost), peak = peak_beyond(lambda: timed(act))
    return {"peak_bytes": peak, "cpu_s": cost.cpu_s}


def _sum_of(manifest: Manifest) -> Words:
    """The sum of the nodes' packed words, each of them seeded integers of 13 bits."""
    vector = vector_of(manifest)
    drawn = np.random.Generator(np.random.PCG64(1)).integers(-4096, 4096, manifest.dimension)
    packed = vector.pack(drawn, dict.fromkeys(vector.scalars, 1 << 16))
    packed *= np.uint64(len(NODES))
    return packed


def main() -> None:
    policy, dimension = load_policy(POLICIES / f"{sys.argv[1]}.yaml"), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as warm:  # loads once what does not grow with the vector: code above all
        measure(policy, 1000, Path(warm))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(policy, dimension, Path(folder))))


if __name__ == "__main__":
    main()
