"""What this hospital's code does on a device of its own, shown without one; and on a real one where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.entropy import entropy
from tests.support.pretend_device import CAN_PRETEND
from tests.train.device_checks import BASES, PRIVATE, session, some_state

ROOT = Path(__file__).resolve().parents[2]
CHECKS = Path(__file__).with_name("device_checks.py")


@pytest.mark.skipif(not CAN_PRETEND, reason="this torch has no hook for a backend in Python")
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


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("base", BASES)
def test_a_plain_round_on_a_gpu_is_the_round_on_the_cpu(base: str) -> None:
    here, there = session(base, "cpu"), session(base, "cuda")
    state = some_state(here)
    wanted, found = here.train(1, state), there.train(1, state)
    assert np.linalg.norm(found.update - wanted.update) < 0.05 * np.linalg.norm(wanted.update)
    assert found.loss_sum == pytest.approx(wanted.loss_sum, rel=1e-3)
    assert there.evaluate(state).tasks.keys() == here.evaluate(state).tasks.keys()


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("base", BASES)
def test_a_private_round_on_a_gpu_is_the_round_on_the_cpu(base: str) -> None:
    here, there = session(base, "cpu", factors="ffa"), session(base, "cuda", factors="ffa")
    state = some_state(here)
    wanted = here.train_private(1, state, PRIVATE, entropy("round")).update
    found = there.train_private(1, state, PRIVATE, entropy("round")).update
    assert np.linalg.norm(found - wanted) < 0.01 * np.linalg.norm(wanted)
