"""Takes each guard out in turn and asks for a red test: `make mutants`.

    python -m tools.mutants                     the whole table
    python -m tools.mutants --only A6           the guards against one attack, or whose name begins so
    python -m tools.mutants --json runs/m.json  also as a file

The checkout is copied into a temporary folder; nothing outside of it is changed. Exit code 1 if a mutant survives, if
an attack in scope has no mutant, if a pattern no longer stands in the source, or if a named test fails by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from tools.mutants_table import ROOT, Mutant, TableFault, load_attacks, load_mutants, uncovered

MOST_JOBS = 2
"""At a time: a hung mutant must not starve the others of a small machine."""

_TEST_S = 90
_MUTANT_S = 240
_BASELINE_S = 3600
_SKIPPED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs")
_CRASHES = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError")
"""What a mutant that was badly cut out raises: no answer of a test."""


@dataclass(frozen=True)
class Outcome:
    """How one mutant fared.

    Attributes:
        verdict: killed, or else survived, hung, broken (the tests could not run, or crashed), stale (the pattern does
            not apply) or red (a named test fails without the mutant, too).
        by: the failing test, or what happened instead.
        why: what that test said.
    """

    name: str
    attacks: tuple[str, ...]
    guard: str
    file: str
    verdict: str
    by: str
    why: str
    seconds: float


@dataclass(frozen=True)
class Failure:
    """One test that did not pass. `error` stands for a fixture or a collection, not for a test's own answer."""

    test: str
    message: str
    error: bool


def main() -> int:
    """Parse the command line and run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="A6|NAME", help="attacks, or beginnings of names")
    parser.add_argument("--json", type=Path, help="write every row here, too")
    parser.add_argument("--jobs", type=int, default=MOST_JOBS, choices=range(1, MOST_JOBS + 1))
    asked = parser.parse_args()
    try:
        mutants = [mutant for mutant in load_mutants() if _wanted(mutant, asked.only)]
        bare = [] if asked.only else uncovered(load_attacks(), mutants)
    except TableFault as error:
        parser.error(str(error))
    if not mutants:
        parser.error("no mutant of that name or attack")
    outcomes = run_table(mutants, jobs=asked.jobs)
    for number in bare:
        _say(f"no mutant stands for {number}")
    killed = sum(outcome.verdict == "killed" for outcome in outcomes)
    _say(f"{killed} of {len(outcomes)} mutants killed")
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n", encoding="utf-8")
    return 0 if killed == len(outcomes) and not bare else 1


def _wanted(mutant: Mutant, only: Sequence[str]) -> bool:
    return not only or any(word in mutant.attacks or mutant.name.startswith(word) for word in only)


def run_table(mutants: Sequence[Mutant], *, jobs: int) -> list[Outcome]:
    """Run every mutant in copies of the checkout; one line is printed for each as it is known."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            copies.put(_copy(Path(folder) / str(number)))
        first = copies.get()
        red = _baseline(first, mutants)
        copies.put(first)

        def one(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                outcome = _try(copy, mutant, red)
            finally:
                copies.put(copy)
            said = outcome.by if outcome.verdict == "killed" else f"{outcome.by} {outcome.why}"
            _say(f"{outcome.verdict:>8} {outcome.seconds:6.1f} s  {outcome.name:<44} {said}")
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, mutants))


def _copy(to: Path) -> Path:
    """A checkout of its own. Its bytecode is bound to the sources' content: a mutant as long as the original counts."""
    shutil.copytree(ROOT, to, ignore=_SKIPPED)
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "fedvlm_secure", "node", "aggregator"]
    subprocess.run([sys.executable, *compiled], cwd=to, check=True, timeout=_MUTANT_S)
    return to


def _baseline(copy: Path, mutants: Iterable[Mutant]) -> dict[str, str]:
    """Tests that fail on the source as it is, by pytest selection."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    _say(f"{len(tests)} selections of tests on the source as it is")
    failures, code = _pytest(copy, tests, stop=False, limit_s=_BASELINE_S)
    if code not in (0, 1):
        raise SystemExit(f"the named tests could not run: pytest ended with {code}\n{_texts(failures)}")
    return {
        test: f"{failure.test} fails by itself"
        for test in tests
        for failure in failures
        if failure.test == test or failure.test.startswith((f"{test}[", f"{test}::"))
    }


def _try(copy: Path, mutant: Mutant, red: dict[str, str]) -> Outcome:
    began_s = time.monotonic()

    def ended(verdict: str, by: str, why: str = "") -> Outcome:
        took_s = round(time.monotonic() - began_s, 1)
        return Outcome(mutant.name, mutant.attacks, mutant.guard, mutant.file, verdict, by, why, took_s)

    at_fault = [red[test] for test in mutant.tests if test in red]
    if at_fault:
        return ended("red", at_fault[0])
    path = copy / mutant.file
    try:
        mutated = mutant.applied(copy)
    except TableFault as error:
        return ended("stale", str(error))
    original = path.read_bytes()
    path.write_text(mutated, encoding="utf-8")
    try:
        failures, code = _pytest(copy, mutant.tests, stop=True, limit_s=_MUTANT_S)
    except subprocess.TimeoutExpired:
        return ended("hung", f"no answer within {_MUTANT_S} s")
    finally:
        path.write_bytes(original)
    return ended(*judge(failures, code))


def judge(failures: Sequence[Failure], code: int) -> tuple[str, str, str]:
    """Verdict, failing test and what it said: only a test that answers by itself kills a mutant."""
    if code == 0:
        return "survived", "every named test passes", ""
    answers = [failure for failure in failures if not failure.error]
    if code != 1 or not answers:
        return "broken", f"pytest ended with {code}", _texts(failures)
    answer = answers[0]
    if answer.message.startswith(_CRASHES):
        return "broken", answer.test, answer.message
    return ("hung" if "Timeout >" in answer.message else "killed"), answer.test, answer.message


def _texts(failures: Iterable[Failure]) -> str:
    return "; ".join(f"{failure.test}: {failure.message}" for failure in failures) or "no test said why"


def _pytest(copy: Path, tests: Sequence[str], *, stop: bool, limit_s: int) -> tuple[list[Failure], int]:
    """Run these tests in a copy; those that did not pass, and pytest's exit code."""
    report = copy.parent / f"{copy.name}.xml"
    report.unlink(missing_ok=True)
    options = ["-p", "no:cacheprovider", "--tb=line", f"--timeout={_TEST_S}", f"--junitxml={report}"]
    options += [f"--basetemp={copy.parent / f'{copy.name}.tmp'}", *(["-x"] if stop else [])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit_s,
        check=False,
    )
    return (_read(report) if report.exists() else []), done.returncode


def _read(report: Path) -> list[Failure]:
    found = []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  (written by our own pytest)
        for kind in ("failure", "error"):
            answer = case.find(kind)
            if answer is not None:
                where = case.get("classname", "").replace(".", "/") + ".py::" + case.get("name", "")
                text = answer.get("message", "").strip().splitlines()
                found.append(Failure(where, text[0][:160] if text else "", kind == "error"))
    return found


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
