"""`make bench`: measure the rows, print them, and keep them in benchmarks/results.json.

    python -m benchmarks.run [--only PART]... [--quick] [--out FILE] [--missing] [--list]

Cases are independent: what one of them finds is written before the next begins, and its rows are replaced only by its
own next measurement, so that a run that was stopped goes on with `--missing`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks import linked, mask_rate, peak_memory, rounds, row, server_step, sharing, sizes, stages, startup
from benchmarks.case import Case
from benchmarks.peers import PeerFailed
from fedvlm_secure.errors import FedvlmError

_ROOMS = (stages, mask_rate, sharing, sizes, peak_memory, server_step, linked, rounds, startup)
RESULTS = Path(__file__).with_name("results.json")


def all_cases(quick: bool) -> list[Case]:
    """Every case, in the order in which they are measured."""
    found = [case for room in _ROOMS for case in room.cases(quick)]
    if find_spec("tenseal") is not None:  # an extra of the package: without it these rows are left out
        found += import_module("benchmarks.he_stages").cases(quick)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Returns 0, or 1 when a case could not be measured; a row that falls short of its target is a result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="speed and memory of the protocol")
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="cases whose name has this part")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work? Writes only where --out says")
    parser.add_argument("--out", type=Path, help="file of rows to add to")
    parser.add_argument("--missing", action="store_true", help="only cases that have no row in the file yet")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    options = parser.parse_args(arguments)
    asked: list[str] = options.only or [""]
    out: Path | None = options.out or (None if options.quick else RESULTS)
    known = {found["case"] for found in row.read(out)} if out is not None and options.missing else set()
    chosen = [c for c in all_cases(options.quick) if c.name not in known and any(part in c.name for part in asked)]
    if options.list or not chosen:
        print("\n".join(case.name for case in chosen) or "no such case, or none that is missing")
        return 0
    return _measure(chosen, out)


def _measure(chosen: list[Case], out: Path | None) -> int:
    measured: list[row.Row] = []
    failed = 0
    for case in chosen:
        started_s = time.monotonic()
        try:
            rows = case.measure()
        except Exception as error:  # whatever it is, the cases after it are independent; the exit code tells
            failed += 1
            if not isinstance(error, PeerFailed | FedvlmError):
                traceback.print_exc()
            print(f"{case.name}: NOT MEASURED: {error}", file=sys.stderr)
            continue
        measured += rows
        if out is not None:
            row.merge(out, case.name, rows)
        print(f"{case.name}: {len(rows)} rows in {time.monotonic() - started_s:.0f} s", file=sys.stderr)
    print("\n".join(row.lines([one.as_json() for one in measured])))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
