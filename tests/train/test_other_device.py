"""What this hospital's code does on a device of its own, shown without one; and on a real one where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = Path(__file__).with_name("device_checks.py")


def test_training_and_scoring_forget_no_tensor_on_the_cpu() -> None:
    """In a process of its own: autograd looks for devices once, and the pretended one must be there by then."""
    checks = len(re.findall(r"^def test_", CHECKS.read_text(encoding="utf-8"), re.MULTILINE))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=", str(CHECKS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed is not None, done.stdout[-6000:]
    assert int(passed[1]) >= checks > 5
