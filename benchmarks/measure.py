"""Time and memory of a call, and medians of calls taken in turn."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """Seconds of one call: CPU time of all threads, and wall time."""

    cpu_s: float
    wall_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu_s + other.cpu_s, self.wall_s + other.wall_s)

    def per(self, parts: float) -> Cost:
        """The cost of one of `parts` equal parts."""
        return Cost(self.cpu_s / parts, self.wall_s / parts)


def timed(act: Callable[[], Result]) -> tuple[Result, Cost]:
    """A call's result and cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = act()
    return result, Cost(time.process_time() - cpu, time.perf_counter() - wall)


def cost_of(act: Callable[[], object]) -> Cost:
    """A call's cost alone."""
    return timed(act)[1]


def median(costs: Sequence[Cost]) -> Cost:
    """Median CPU time and median wall time, each by itself."""
    return Cost(statistics.median(c.cpu_s for c in costs), statistics.median(c.wall_s for c in costs))


def in_turn(times: int, *acts: Callable[[], Cost]) -> tuple[Cost, ...]:
    """Medians of several measurements taken alternately, so that a busy moment of the machine meets all of them."""
    taken: list[list[Cost]] = [[] for _ in acts]
    for _ in range(times):
        for costs, act in zip(taken, acts, strict=True):
            costs.append(act())
    return tuple(median(costs) for costs in taken)


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return process_bytes("VmRSS")


def peak_beyond(act: Callable[[], Result]) -> tuple[Result, int]:
    """A call's result, and by how many bytes resident memory rose above its start at the highest moment in between.

    The kernel's own high-water mark (VmHWM), set back to the present before the call: unlike tracemalloc it sees what
    numpy, OpenSSL and SQLite allocate, and unlike ru_maxrss an earlier peak does not hide this one. Linux only.
    """
    forget_peak()
    before = resident_bytes()
    result = act()
    return result, max(0, peak_bytes() - before)


def forget_peak() -> None:
    """Give back what is free, then set this process's high-water mark to what is resident now.

    Without the first, memory that the allocator keeps from an earlier stage would be used again unseen.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
    _CLEAR_REFS.write_text("5")


def peak_bytes() -> int:
    """The high-water mark of resident memory."""
    return process_bytes("VmHWM")


def process_bytes(field: str, process: int | str = "self") -> int:
    """A process's `VmRSS` or `VmHWM`; 0 once it is gone.

    Raises:
        RuntimeError: this system does not tell.
    """
    status = Path(f"/proc/{process}/status")
    try:
        lines = status.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError) as error:
        if process == "self":
            raise RuntimeError("this system has no /proc: memory rows need Linux") from error
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
