"""The coverage-guided fuzzer behind `make fuzz`: atheris (libFuzzer for Python) on the targets of tests/fuzz.

    python -m tools.fuzz --seconds 300              every target, one after the other
    python -m tools.fuzz --seconds 300 wire roster-file

Each target runs in a process of its own. A case that ends in anything but a value or an error of our tree, that takes
longer than ten seconds or more than 2 GiB, is written to the findings folder, and the command ends with 1. Cases that
reach code no other does stay in its folder `reached`, where the next call goes on.
Once a finding is fixed, its case belongs into tests/fuzz/corpus/TARGET/, which the test suite replays.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ONE_CASE_S = 10
_MEMORY_MIB = 2048
_LONGEST_BYTES = 8192
_GRACE_S = 60
_MEMORY = Path("/dev/shm")  # noqa: S108  (targets write thousands of small files a second)
_CHILD = "--child"  # not for the command line's users: code is instrumented as it is imported, so before anything is
_INSTRUMENTED = ["fedvlm_secure", "aggregator", "node"]
_MANY_BLOCKS = ["fedvlm_secure.wire.generated"]


def main() -> int:
    """Parse the command line and fuzz."""
    if sys.argv[1:2] == [_CHILD]:
        return _fuzz_here(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=300, help="per target")
    parser.add_argument("--findings", type=Path, default=Path("runs/fuzz"), help="where cases are written")
    asked = parser.parse_args()
    unknown = sorted(set(asked.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    found = [_fuzz(name, asked.seconds, asked.findings.absolute()) for name in asked.targets or TARGETS]
    return 1 if any(found) else 0


def _fuzz(name: str, seconds: int, findings: Path) -> bool:
    """Fuzz one target in a process of its own; one line says how it went. Returns whether something was found."""
    folder = findings / name
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "tools.fuzz", _CHILD, name, str(seconds), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": scratch},  # libFuzzer ends without clean-up
            timeout=seconds + _GRACE_S,
            check=False,
        )
    (folder / "output.log").write_text(done.stdout)
    cases = sorted(path.name for path in set(folder.iterdir()) - before if path.name != "output.log")
    counted = re.findall(r"^#(\d+)\s", done.stdout, re.MULTILINE)
    counted += re.findall(r"Done (\d+) runs", done.stdout)
    covered = re.findall(r"\bcov: (\d+)", done.stdout)
    runs, edges = int(counted[-1]) if counted else 0, int(covered[-1]) if covered else 0
    verdict = f"FOUND {', '.join(cases)}" if cases else "nothing found"
    if not cases and done.returncode != 0:
        verdict = f"ended with {done.returncode}; see {folder / 'output.log'}"
    sys.stdout.write(f"{name:>16}: {runs:>10} executions, {edges:>6} edges, {verdict}\n")
    sys.stdout.flush()
    return done.returncode != 0


def _fuzz_here(name: str, seconds: int, folder: Path) -> int:
    """Hand this process over to libFuzzer."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # an extra of its own

    with atheris.instrument_imports(include=_INSTRUMENTED, exclude=_MANY_BLOCKS):
        from tests.fuzz.seeds import seeds
        from tests.fuzz.targets import CORPUS, TARGETS
    reached = folder.parent / "reached" / name
    reached.mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(seeds(name)):
        (reached / f"seed-{number}").write_bytes(raw)
    kept = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={_ONE_CASE_S}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-max_len={_LONGEST_BYTES}",
        f"-artifact_prefix={folder}{os.sep}",
    ]
    atheris.Setup([sys.argv[0], *options, str(reached), *kept], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
