"""The replayed server step: known hashes, on every CPU, and states that come back from their bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.canonical import encode
from fedvlm_secure.errors import RunAborted
from fedvlm_secure.fl.server import fedavg, mean_update
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.types import Float64Vector
from tests.support.vectors import vector

ROOT = Path(__file__).parents[2]


def replayed() -> list[str]:
    """State digests of the known-answer rounds, as this process computes them; the model's bytes are checked too."""
    state, digests = ServerState(np.zeros(6, dtype=np.float32)), []
    for step in vector("server-step"):
        total = np.array(step["total"], dtype=np.int64)
        mean = mean_update(total, scale_bits=16, weight_total=step["weight_total"], weight_bits=16)
        state = fedavg(state, mean)
        if state.model.tobytes().hex() != step["model"]:
            raise ValueError("the model differs")
        digests.append(state.digest.hex())
    return digests


def test_replayed_step_has_the_hash_of_exact_arithmetic() -> None:
    assert replayed() == [step["state"] for step in vector("server-step")]


def test_replayed_step_has_the_same_hash_with_cpu_features_off() -> None:
    from numpy._core import _multiarray_umath as core  # type: ignore[attr-defined]

    off = [name for name in core.__cpu_dispatch__ if core.__cpu_features__[name]]
    code = (
        "from numpy._core import _multiarray_umath as core\n"
        f"on = [name for name in {off!r} if core.__cpu_features__[name]]\n"
        "from tests.fl.test_server import large, replayed\n"
        "print(on, *replayed(), large())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(off), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert ran.stdout.split() == ["[]", *(step["state"] for step in vector("server-step")), large()]


def large() -> str:
    """Digest after a step over enough coordinates for every vectorised loop and its tail."""
    rng = np.random.Generator(np.random.PCG64(7))
    total = rng.integers(-(2**31), 2**31, size=10_007)
    state = ServerState(rng.integers(-(2**20), 2**20, size=10_007).astype(np.float32) / np.float32(2**22))
    return fedavg(state, mean_update(total, scale_bits=20, weight_total=98_765, weight_bits=16)).digest.hex()


def test_state_comes_back_from_its_bytes() -> None:
    state = ServerState(
        np.array([1.5, -0.0, 3e38], dtype=np.float32), {"m": np.array([1.0, 2.0, -1e300])}, {"beta": 0.81}
    )
    again = ServerState.from_bytes(state.to_bytes())
    assert again.digest == state.digest
    assert again.to_bytes() == state.to_bytes()
    assert np.array_equal(again.model, state.model)
    assert np.array_equal(again.slots["m"], state.slots["m"])
    assert again.numbers == {"beta": 0.81}


def test_minus_zero_does_not_change_a_state() -> None:
    zero, minus = (ServerState(np.array([value], dtype=np.float32)) for value in (0.0, -0.0))
    assert zero.digest == minus.digest


@pytest.mark.parametrize("changed", ["model", "slot", "slot name", "number", "number name"])
def test_every_part_of_a_state_is_in_its_digest(changed: str) -> None:
    model, slot = np.zeros(2, dtype=np.float32), np.zeros(2)
    base = ServerState(model, {"m": slot}, {"beta": 0.5})
    other = {
        "model": ServerState(np.array([0, 1e-45], dtype=np.float32), {"m": slot}, {"beta": 0.5}),
        "slot": ServerState(model, {"m": np.array([0, 5e-324])}, {"beta": 0.5}),
        "slot name": ServerState(model, {"v": slot}, {"beta": 0.5}),
        "number": ServerState(model, {"m": slot}, {"beta": 0.25}),
        "number name": ServerState(model, {"m": slot}, {"gamma": 0.5}),
    }[changed]
    assert other.digest != base.digest


BAD_STATES: dict[str, Any] = {
    "no map": [1],
    "a part missing": {"model": b"", "slots": {}},
    "a part too many": {"model": b"", "slots": {}, "numbers": {}, "extra": 1},
    "model no bytes": {"model": 1, "slots": {}, "numbers": {}},
    "model of half a float": {"model": b"abc", "slots": {}, "numbers": {}},
    "slots no map": {"model": b"", "slots": b"", "numbers": {}},
    "slot of another length": {"model": bytes(8), "slots": {"m": bytes(8)}, "numbers": {}},
    "slot no bytes": {"model": b"", "slots": {"m": 1.0}, "numbers": {}},
    "numbers no map": {"model": b"", "slots": {}, "numbers": 3},
    "number no float": {"model": b"", "slots": {}, "numbers": {"beta": "0.5"}},
}


@pytest.mark.parametrize("fault", BAD_STATES)
def test_bytes_that_are_no_state_are_refused(fault: str) -> None:
    with pytest.raises(ValueError):
        ServerState.from_bytes(encode(BAD_STATES[fault]))


@pytest.mark.parametrize("raw", [b"", b"\x00", b"n"])
def test_bytes_that_encode_nothing_are_no_state(raw: bytes) -> None:
    with pytest.raises(ValueError):
        ServerState.from_bytes(raw)


@pytest.mark.parametrize("weight_total", [0, -1])
def test_survivors_without_weight_end_the_run(weight_total: int) -> None:
    with pytest.raises(RunAborted) as caught:
        mean_update(np.ones(3, dtype=np.int64), scale_bits=16, weight_total=weight_total, weight_bits=16)
    assert caught.value.code == "NO_WEIGHT"


def test_state_of_another_dtype_or_shape_cannot_be_made() -> None:
    slot: Float64Vector = np.zeros(3)
    with pytest.raises(ValueError, match="float32"):
        ServerState(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slots"):
        ServerState(np.zeros(2, dtype=np.float32), {"m": slot})
