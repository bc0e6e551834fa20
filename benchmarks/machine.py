"""What a figure depends on besides the code: processor, cores, memory, versions. No host name, no path, no date."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("fedvlm-secure", "numpy", "cryptography", "grpcio", "torch")
_FLAGS = ("aes", "vaes", "avx2", "avx512f", "sha_ni")


def describe_machine() -> dict[str, object]:
    """The machine that measures, as every row carries it; its load tells whether it was left to the measurement."""
    return {**_description(), "load_average": round(os.getloadavg()[0], 1)}


@cache
def _description() -> dict[str, object]:
    information = _cpuinfo()
    flags = information.get("flags", "").split()
    return {
        "cpu": information.get("model name", platform.processor() or platform.machine()),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor's fields; empty where the system has no such file."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
