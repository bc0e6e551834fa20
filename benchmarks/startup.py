"""Row 11: how long `aggregator serve` takes until it listens, and `fedvlm --help`."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.case import Case
from benchmarks.loopback import set_up
from benchmarks.measure import Cost
from benchmarks.row import Row, Target, at_most
from fedvlm_secure.cli.children import child_environment

POLICIES = Path(__file__).resolve().parents[1] / "policies"
LISTEN_S, HELP_S = at_most(1.0, "value"), at_most(0.3, "value")
SAMPLES = 5
_LONGEST_S = 60.0


def cases(quick: bool) -> list[Case]:
    """Both commands."""
    return [Case("startup/aggregator", listening), Case("startup/help", help_text)]


def help_text() -> list[Row]:
    """Wall time of `fedvlm --help` as a fresh process."""
    command = [sys.executable, "-P", "-m", "fedvlm_secure.cli.main", "--help"]
    taken = []
    for _ in range(SAMPLES + 1):
        start_s = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=child_environment(os.environ), timeout=_LONGEST_S)
        taken.append(time.perf_counter() - start_s)
    return [_row("startup/fedvlm-help", taken[1:], HELP_S)]


def listening() -> list[Row]:
    """Wall time from the start of the process to the line that says where it listens: first start, and later ones."""
    rows = []
    for policy in ("dp_fedavg", "fedavg"):
        with tempfile.TemporaryDirectory() as folder:
            running = set_up(Path(folder), POLICIES / f"{policy}.yaml", nodes=3)
            taken = [_until_listening(running.home, POLICIES / f"{policy}.yaml") for _ in range(SAMPLES)]
        rows.append(_row(f"startup/aggregator-listens-{policy}", taken[1:], LISTEN_S, first_start_s=taken[0]))
    return rows


def _until_listening(home: Path, policy: Path) -> float:
    command = ["aggregator", "serve", "--policy", str(policy), "--home", str(home), "--listen", "127.0.0.1:0", "--json"]
    start_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(os.environ),
    )
    try:
        if process.stdout is None:
            raise RuntimeError("the aggregator was started without a pipe")
        for line in process.stdout:
            if json.loads(line).get("event") == "listening":
                return time.perf_counter() - start_s
        raise RuntimeError("the aggregator ended before it listened")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=_LONGEST_S)


def _row(name: str, taken: list[float], target: Target, **facts: float) -> Row:
    median = Cost(0.0, statistics.median(taken))
    return Row(
        name=name,
        value=median.wall_s,
        unit="s wall",
        target=target,
        facts={"samples": len(taken), "slowest_s": max(taken), **facts},
    )
