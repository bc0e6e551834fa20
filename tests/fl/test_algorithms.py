"""Server algorithms against exact arithmetic from the papers, on every CPU, and against values worked out by hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fedvlm_secure.fl.algorithms import Adaptive, PlainAverage, ServerAlgorithm, ServerMomentum, adagrad, adam, yogi
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.policy.algorithms import Algorithm
from fedvlm_secure.rounds.closing import server_algorithm
from fedvlm_secure.types import Float64Vector
from tests.support.vectors import vector

ROOT = Path(__file__).parents[2]
SECTIONS: TypeAdapter[Any] = TypeAdapter(Algorithm)


def algorithm(case: str, values: dict[str, Any]) -> ServerAlgorithm:
    """As a policy's section makes it."""
    name, _, form = case.partition(" ")
    compat = {"reference_compat": True} if form == "reference_compat" else {}
    return server_algorithm(
        SECTIONS.validate_python({"name": name, **values, **compat}), known_noise=form == "known noise"
    )


def after(chosen: ServerAlgorithm, means: list[Float64Vector], noise_variance: float = 0.0) -> list[ServerState]:
    states = [chosen.begin(np.zeros(len(means[0]), dtype=np.float32))]
    for mean in means:
        states.append(chosen.step(states[-1], mean, noise_variance))
    return states[1:]


def known(case: str) -> list[str]:
    """Digests of the known-answer rounds as this process computes them."""
    expect = vector("fl_algorithms")
    means = [np.array([float.fromhex(value) for value in row]) for row in expect["means"]]
    noise = float.fromhex(expect["cases"][case].get("noise_variance", "0x0p+0"))
    return [state.digest.hex() for state in after(algorithm(case, expect["cases"][case]["algorithm"]), means, noise)]


CASES = list(vector("fl_algorithms")["cases"])


@pytest.mark.parametrize("case", CASES)
def test_states_have_the_hashes_of_exact_arithmetic(case: str) -> None:
    assert known(case) == vector("fl_algorithms")["cases"][case]["states"]


def large() -> list[str]:
    """Digests after rounds over enough coordinates for every vectorised loop and its tail."""
    rng = np.random.Generator(np.random.PCG64(11))
    means = [np.ldexp(rng.integers(-(2**31), 2**31, size=10_007).astype(np.float64), -40) for _ in range(4)]
    cases = vector("fl_algorithms")["cases"]
    return [after(algorithm(case, cases[case]["algorithm"]), means)[-1].digest.hex() for case in CASES]


def test_hashes_are_the_same_with_cpu_features_off() -> None:
    from numpy._core import _multiarray_umath as core  # type: ignore[attr-defined]

    off = [name for name in core.__cpu_dispatch__ if core.__cpu_features__[name]]
    code = (
        "from numpy._core import _multiarray_umath as core\n"
        f"on = [name for name in {off!r} if core.__cpu_features__[name]]\n"
        "from tests.fl.test_algorithms import CASES, known, large\n"
        "print(on, *large(), *(digest for case in CASES for digest in known(case)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(off), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    cases = vector("fl_algorithms")["cases"]
    assert ran.stdout.split() == ["[]", *large(), *(digest for case in CASES for digest in cases[case]["states"])]


def one(chosen: ServerAlgorithm, *means: float) -> list[float]:
    """Where a single coordinate stands after each round."""
    return [float(state.model[0]) for state in after(chosen, [np.array([mean]) for mean in means])]


def test_first_steps_of_each_algorithm_are_those_worked_out_by_hand() -> None:
    # powers of two throughout: m = 1/2 of the mean, v starts at tau^2 = 1/4
    half: dict[str, Any] = {"server_lr": 1.0, "tau": 0.5, "beta1": 0.5, "beta2": 0.75}
    assert one(PlainAverage(), 0.5, 0.25) == [0.5, 0.75]
    assert one(ServerMomentum(0.5, 0.5), 1.0, 1.0) == [0.5, 0.5 + 0.75]
    assert one(Adaptive(adagrad, **half), 1.0) == [pytest.approx(0.5 / (math.sqrt(1.25) + 0.5))]
    assert one(Adaptive(adam, **half), 1.0) == [pytest.approx(0.5 / (math.sqrt(0.75 * 0.25 + 0.25) + 0.5))]
    assert one(Adaptive(yogi, **half), 1.0) == [pytest.approx(0.5 / (math.sqrt(0.25 + 0.25) + 0.5))]
    assert one(Adaptive(yogi, **half), 0.25) == [pytest.approx(0.125 / (math.sqrt(0.25 - 0.25 / 16) + 0.5))]


def test_reference_forms_differ_from_the_papers_and_are_what_their_source_says() -> None:
    """First m undamped, later ones damped, and the second moment of m instead of the mean's."""
    assert one(ServerMomentum(1.0, 0.9, damped=True), 1.0, 2.0) == [1.0, pytest.approx(1.0 + 0.9 + 0.2)]
    assert one(ServerMomentum(1.0, 0.9), 1.0, 2.0) == [1.0, pytest.approx(1.0 + 0.9 + 2.0)]
    compat = Adaptive(adam, 1.0, 1e-3, 0.9, 0.99, momentum_squared=True)
    v1 = 0.99 * 1e-6 + 0.01
    m2 = 0.9 + 0.1 * 2.0
    v2 = 0.99 * v1 + 0.01 * m2**2
    first = 1.0 / (math.sqrt(v1) + 1e-3)
    assert one(compat, 1.0, 2.0) == pytest.approx([first, first + m2 / (math.sqrt(v2) + 1e-3)])


def test_no_momentum_and_a_huge_tau_make_an_adaptive_step_plain_averaging() -> None:
    means = [np.linspace(-0.01, 0.01, 50), np.linspace(0.02, -0.01, 50)]
    plain = after(PlainAverage(), means)[-1].model
    # v starts at tau^2: adagrad and yogi keep it, while adam with beta2 0 has forgotten it after one round
    for rule, rate in ((adagrad, 2e6), (yogi, 2e6), (adam, 1e6)):
        adaptive = after(Adaptive(rule, rate, 1e6, 0.0, 0.0), means)[-1].model
        np.testing.assert_allclose(adaptive, plain, rtol=1e-6, atol=1e-9)
    assert np.array_equal(after(ServerMomentum(1.0, 0.0), means)[-1].model, plain)


@given(
    means=st.lists(st.floats(-1024, 1024, allow_subnormal=False), min_size=1, max_size=30),
    tau=st.floats(1e-9, 1), beta1=st.floats(0, 0.999), beta2=st.floats(0, 0.999),
    rule=st.sampled_from([adagrad, adam, yogi]), compat=st.booleans(),
)  # fmt: skip
def test_second_moment_is_never_negative_and_the_model_stays_finite(
    means: list[float], tau: float, beta1: float, beta2: float, rule: Any, compat: bool
) -> None:
    states = after(Adaptive(rule, 1.0, tau, beta1, beta2, compat), [np.array([mean]) for mean in means])
    assert all(state.slots["v"][0] >= 0.0 and np.isfinite(state.model[0]) for state in states)


@pytest.mark.parametrize("case", CASES)
def test_a_coordinate_that_nobody_ever_moved_stays_where_it_is(case: str) -> None:
    values = vector("fl_algorithms")["cases"][case]["algorithm"]
    state = algorithm(case, values).begin(np.array([0.1, -3.7e-5, 0.1], dtype=np.float32))
    for value in (0.5, -0.25, 0.125):
        state = algorithm(case, values).step(state, np.array([0.0, 0.0, value]))
    assert np.array_equal(state.model[:2], np.array([0.1, -3.7e-5], dtype=np.float32))
    assert state.model[2] != np.float32(0.1)


@pytest.mark.parametrize("case", CASES)
def test_state_with_memory_comes_back_from_its_bytes_and_goes_on_alike(case: str) -> None:
    chosen = algorithm(case, vector("fl_algorithms")["cases"][case]["algorithm"])
    means = [np.array([0.3, -0.2, 1e-7])] * 2
    state = after(chosen, means)[-1]
    again = ServerState.from_bytes(state.to_bytes())
    assert chosen.step(again, means[0]).digest == chosen.step(state, means[0]).digest


def test_a_step_leaves_the_state_it_came_from_as_it_was() -> None:
    chosen = Adaptive(adam, 0.1, 1e-3, 0.9, 0.99)
    state = after(chosen, [np.array([0.5, -0.5])])[-1]
    before = state.digest
    chosen.step(state, np.array([0.25, 0.25]))
    assert state.digest == before
