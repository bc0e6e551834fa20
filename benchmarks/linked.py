"""Rows 8 and 9: the two programs beside this file that measure noise and the private step, as rows."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.row import Row, at_most

ROOT = Path(__file__).resolve().parents[1]
NOISE_NS, NOISE_BITS = 13.0, 90
STEP_RATIO = at_most(1.5)
_LONGEST_S = 600.0


def cases(quick: bool) -> list[Case]:
    """Each program once."""
    return [Case("noise", partial(noise, 1 << (16 if quick else 22))), Case("dp-step", dp_step)]


def _measured(script: str, *arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=_LONGEST_S,
        cwd=ROOT,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{script} ended with {ran.returncode}: {(ran.stderr.strip().splitlines() or ['?'])[-1]}")
    found: dict[str, Any] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def noise(values: int) -> list[Row]:
    """One row per width of the noise; it counts only with its distance from the exact law."""
    found = _measured("noise", "--values", str(values))
    rows = []
    for row in found["rows"]:
        close = row["total_variation_bits"] >= NOISE_BITS
        rows.append(
            Row(
                name=f"noise/sigma-{row['sigma']}",
                value=row["ns_per_value"],
                unit="ns per value",
                against="numpy float normal (not secure)",
                against_value=found["float_normal_ns"],
                ratio=row["to_float_normal"],
                ratio_is="our time over numpy's",
                target=at_most(NOISE_NS if close else 0.0, "value"),  # further from the law than 2^-90: never holds
                facts={**row, "exact_sampler_in_python_ns": found["exact_sampler_ns"], "values": values},
            )
        )
    return rows


def dp_step() -> list[Row]:
    """The private step over the plain one on the same rows: LoRA at one and eight rows per patient, and all trained."""
    rows = []
    for name, arguments in (
        ("cap-1", ("--cap", "1")),
        ("cap-8", ("--cap", "8")),
        ("connector+lora", ("--cap", "1", "--strategy", "connector+lora")),
    ):
        found = _measured("dp_step", *arguments)
        rows.append(
            Row(
                name=f"dp-step/{name}",
                value=found["ms"]["private"],
                unit="ms per step",
                against="ms of the plain step",
                against_value=found["ms"]["plain"],
                ratio=found["ratio"],
                ratio_is="private over plain, CPU time",
                target=STEP_RATIO,
                facts=found,
            )
        )
    return rows
