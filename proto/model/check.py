"""Search every variant of the models with Spin and compare with what each must show. `make model` runs this.

The models and how to read them: README.md beside this file. Needs `spin` (6.5) and `gcc`; no Python package.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
HOLDS = "holds"
DEPTH_STEPS = 1_000_000
MEMORY_MB = 3_500  # for each search; two run at a time
TIMEOUT_S = 900.0

_NUMBERS = {
    "states": r"^\s*([0-9.e+]+) states, stored",
    "depth": r"depth reached (\d+)",
}


class ModelError(Exception):
    """The search could not be done at all. `hint` says what to do."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.hint = hint


@dataclass(frozen=True)
class Variant:
    """One row of variants.toml: a model, what is defined in it, and the properties one of which must fail."""

    name: str
    model: str
    define: tuple[str, ...]
    expect: tuple[str, ...]  # (HOLDS,) where no property may fail
    why: str

    @property
    def source(self) -> Path:
        return HERE / f"{self.model}.pml"

    @property
    def flags(self) -> list[str]:
        return [f"-D{word}" for word in self.define]


@dataclass(frozen=True)
class Outcome:
    """What a search found: HOLDS, the name of a property that fails, or why the search is not complete."""

    name: str
    expected: tuple[str, ...]
    found: str
    states: int
    depth: int
    cpu_s: float
    memory_mb: float

    @property
    def as_expected(self) -> bool:
        return self.found in self.expected


def load_variants(path: Path) -> list[Variant]:
    """Read variants.toml.

    Raises:
        ModelError: a row lacks a field, or a name occurs twice.
    """
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["variant"]
    variants = []
    for row in rows:
        try:
            expect = (row["expect"],) if isinstance(row["expect"], str) else tuple(row["expect"])
            variants.append(Variant(row["name"], row["model"], tuple(row["define"]), expect, row["why"]))
        except KeyError as error:
            raise ModelError(f"{path.name}: a variant lacks {error}", "see the other rows") from error
    if len({variant.name for variant in variants}) != len(variants):
        raise ModelError(f"{path.name}: two variants have one name", "names tell the rows of the table apart")
    return variants


def check_tools() -> None:
    """Raises ModelError if Spin or a C compiler is missing."""
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        raise ModelError(f"{' and '.join(missing)} not found", "install them, e.g. apt-get install spin gcc")


def run_tool(command: Sequence[str], folder: Path, what: str) -> str:
    """Run one program in `folder` and return what it printed.

    Raises:
        ModelError: it failed or took longer than TIMEOUT_S.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{what}: not done within {TIMEOUT_S:.0f} s", "run it alone: --jobs 1 --only NAME") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-500:]
        raise ModelError(f"{what}: {command[0]} ends with {done.returncode}: {said}", "see README.md")
    return done.stdout


def search(variant: Variant, folder: Path) -> Outcome:
    """Compile a variant's verifier in `folder` and search its whole state space, or up to the first error.

    Raises:
        ModelError: the model does not compile, or the search takes too long.
    """
    run_tool(["spin", *variant.flags, "-a", str(variant.source)], folder, variant.name)
    options = ["-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048", f"-DMEMLIM={MEMORY_MB}"]
    run_tool(["gcc", "-O2", "-w", *options, "-o", "pan", "pan.c"], folder, variant.name)
    report = folder / "report.txt"
    with report.open("wb") as output:
        verifier = subprocess.Popen(["./pan", f"-m{DEPTH_STEPS}"], cwd=folder, stdout=output, stderr=output)
        alarm = threading.Timer(TIMEOUT_S, verifier.kill)
        alarm.start()
        _, _, usage = os.wait4(verifier.pid, 0)  # the one wait that says what this child alone used
        alarm.cancel()
    return read_outcome(
        variant,
        report.read_text(encoding="utf-8", errors="replace"),
        cpu_s=usage.ru_utime + usage.ru_stime,
        memory_mb=usage.ru_maxrss / 1024,
    )


def read_outcome(variant: Variant, printed: str, *, cpu_s: float, memory_mb: float) -> Outcome:
    """Read a verifier's report. A search that was cut short counts as neither result."""
    numbers = {}
    for name, pattern in _NUMBERS.items():
        match = re.search(pattern, printed, re.MULTILINE)
        numbers[name] = float(match[1]) if match else 0.0
    failed = re.search(r"assertion violated\s+!\((\w+)\)", printed)
    if failed:
        found = failed[1]
    elif "max search depth too small" in printed:
        found = "cut short: depth"
    elif "Search not completed" in printed or "errors: 0" not in printed:
        found = f"cut short: {TIMEOUT_S:.0f} s, {MEMORY_MB} MB or another fault"
    else:
        found = HOLDS
    return Outcome(
        variant.name,
        variant.expect,
        found,
        int(numbers["states"]),
        int(numbers["depth"]),
        cpu_s,
        memory_mb,
    )


def trace(variant: Variant, folder: Path) -> list[str]:
    """The steps that lead to the failed property, in words; empty where none fails."""
    search(variant, folder)
    trail = next(folder.glob("*.trail"), None)
    if trail is None:
        return []
    printed = run_tool(["spin", *variant.flags, "-t", "-k", str(trail), str(variant.source)], folder, variant.name)
    return [name_nodes(line.strip()) for line in printed.splitlines() if "<" in line or "{" in line]


def name_nodes(line: str) -> str:
    """<0> is node a; {5}, a bit mask, is {a, c}."""

    def members(match: re.Match[str]) -> str:
        mask = int(match[1])
        return "{" + ", ".join(chr(ord("a") + i) for i in range(8) if mask >> i & 1) + "}"

    named = re.sub(r"<(\d+)>", lambda match: chr(ord("a") + int(match[1])), line)
    return re.sub(r"\{(\d+)\}", members, named)


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    lines = ["| variant | must find | found | states | depth | CPU s | MB |", "|---|---|---|--:|--:|--:|--:|"]
    for row in outcomes:
        expected = " or ".join(row.expected)
        found = row.found if row.as_expected else f"**{row.found}**"
        lines.append(
            f"| {row.name} | {expected} | {found} | {row.states:,} | {row.depth:,} | {row.cpu_s:.1f} "
            f"| {row.memory_mb:.0f} |"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="check.py", description="Search the models of the protocol with Spin.")
    parser.add_argument("--only", action="append", metavar="TEXT", help="variants whose name contains TEXT")
    parser.add_argument("--jobs", type=int, default=2, help="searches at a time, each up to 3.5 GB (default 2)")
    parser.add_argument("--json", action="store_true", help="print rows as JSON instead of a table")
    parser.add_argument("--trace", action="store_true", help="print the steps to the failed property, in words")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """0: every variant shows what it must; 1: one does not; 2: the search could not be done."""
    options = parse(arguments)
    try:
        check_tools()
        wanted = options.only or [""]
        variants = [row for row in load_variants(HERE / "variants.toml") if any(text in row.name for text in wanted)]
        if not variants or options.jobs < 1:
            raise ModelError("nothing to do", "give --only a part of a name in variants.toml, and --jobs at least 1")
        with tempfile.TemporaryDirectory(prefix="fedvlm-model-") as root:
            folders = [Path(root, str(i)) for i in range(len(variants))]
            for folder in folders:
                folder.mkdir()
            if options.trace:
                for variant, folder in zip(variants, folders, strict=True):
                    print(f"{variant.name}: {variant.why}", *trace(variant, folder), sep="\n  ")
                return 0
            with ThreadPoolExecutor(options.jobs) as pool:
                outcomes = list(pool.map(search, variants, folders))
    except ModelError as error:
        print(f"model: error: {error}\nmodel: hint: {error.hint}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([{**asdict(row), "as_expected": row.as_expected} for row in outcomes], indent=1))
    else:
        print(table(outcomes))
    return 0 if all(row.as_expected for row in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
