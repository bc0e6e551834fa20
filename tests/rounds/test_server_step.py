"""The server step by blocks: bit for bit the step on whole vectors, with memory for one state and a few blocks."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedvlm_secure.fl.server import mean_update
from fedvlm_secure.fl.state import BLOCK, ServerState
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.ring.quantise import WEIGHT_BITS
from fedvlm_secure.rounds.closing import STAGE, Step, initial_state, next_state, server_algorithm
from fedvlm_secure.rounds.manifest import make_manifest
from fedvlm_secure.rounds.start import new_start
from fedvlm_secure.rounds.states import state_in
from fedvlm_secure.rounds.terms import scalar_names, vector_of
from fedvlm_secure.rounds.vectors import HeldVector
from fedvlm_secure.secagg.merkle import CHUNK_BYTES
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.types import Digest, Int64Vector, NodeId, Words
from tests.fl.test_algorithms_in_a_run import SECTIONS
from tests.support.cohort import BASE, numeric_policy
from tests.support.private_cohort import private_sections

NODES = tuple(NodeId(name) for name in "abcd")
ODD = 3 * BLOCK + 5


def policy_of(name: str, **changes: Any) -> Policy:
    return numeric_policy(**{"algorithm": SECTIONS[name], "weights": "equal", **changes})


def manifest_of(policy: Policy, dimension: int) -> Manifest:
    return make_manifest(
        policy,
        run_id=bytes(16),
        nodes=NODES,
        base_fingerprint=BASE,
        layout_digest=Digest(bytes(32)),
        dimension=dimension,
        aggregator=bytes(32),
        start_epoch=0,
        start=new_start(policy, dimension),
    )


def sum_of(manifest: Manifest, seed: int, *, closing: bool = False) -> tuple[Int64Vector, Words, int]:
    """Three nodes' integers added as integers, and as words; and the sum of their weights."""
    rng = np.random.default_rng(seed)
    vector = vector_of(manifest, closing=closing)
    rows = rng.integers(-vector.lanes.offset, vector.lanes.largest, (3, vector.dimension))
    scalars = dict.fromkeys(vector.scalars, 50_000)
    total = np.zeros(vector.words, dtype=np.uint64)
    for row in rows:
        total += vector.pack(row, scalars)
    return rows.sum(axis=0), total, 3 * 50_000


def whole_step(
    policy: Policy, manifest: Manifest, before: ServerState, integers: Int64Vector, weight: int
) -> ServerState:
    """On whole vectors, from the integers before they were packed."""
    mean = mean_update(integers, scale_bits=manifest.scale_bits, weight_total=weight, weight_bits=WEIGHT_BITS)
    return server_algorithm(policy.algorithm).step(before, mean)


def stepped(policy: Policy, manifest: Manifest, before: ServerState, total: Words, round_number: int = 0) -> Step:
    """From memory and from storage: they must agree."""
    held = state_in(HeldVector(before.to_bytes()))
    steps = [next_state(policy, manifest, state, total, 3, round_number=round_number) for state in (before, held)]
    assert steps[0].state.digest == steps[1].state.digest and steps[0].norm == steps[1].norm
    return steps[0]


@pytest.mark.parametrize("lanes", [2, 3, 4])
@pytest.mark.parametrize("name", SECTIONS)
def test_step_by_blocks_has_the_bits_of_the_step_on_whole_vectors(name: str, lanes: int) -> None:
    policy = policy_of(name, protection={"lanes": lanes})
    manifest = manifest_of(policy, ODD)
    state = initial_state(policy, ODD)
    for seed in range(2):
        integers, total, weight = sum_of(manifest, seed)
        step, expected = stepped(policy, manifest, state, total), whole_step(policy, manifest, state, integers, weight)
        assert step.state.to_bytes() == expected.to_bytes() and step.state.digest == expected.digest
        assert step.scalars == dict.fromkeys(manifest.scalars, weight)
        way = (expected.model - state.model).astype(np.float64)
        assert step.norm == pytest.approx(np.linalg.norm(way), rel=1e-12)
        state = step.state


@pytest.mark.parametrize("dimension", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1])
def test_no_coordinate_is_lost_where_blocks_and_lanes_meet(dimension: int) -> None:
    policy = policy_of("fedadam")
    manifest = manifest_of(policy, dimension)
    integers, total, weight = sum_of(manifest, dimension)
    state = initial_state(policy, dimension)
    expected = whole_step(policy, manifest, state, integers, weight)
    assert stepped(policy, manifest, state, total).state.digest == expected.digest


def test_second_stage_begins_with_fresh_memory_in_every_block() -> None:
    model = {"strategy": "two-stage", "connector_rounds": 1}
    policy = policy_of("fedavgm", model=model)
    manifest = manifest_of(policy, ODD)
    first = stepped(policy, manifest, initial_state(policy, ODD), sum_of(manifest, 0)[1]).state
    integers, total, weight = sum_of(manifest, 1)
    second = stepped(policy, manifest, first, total, round_number=1).state
    start = server_algorithm(policy.algorithm).begin(first.model)
    expected = whole_step(policy, manifest, start, integers, weight)
    assert first.slots["m"].any() and (first.numbers[STAGE], second.numbers[STAGE]) == (0.0, 1.0)
    assert np.array_equal(second.model, expected.model) and np.array_equal(second.slots["m"], expected.slots["m"])


def test_round_that_trains_nothing_leaves_every_block_of_the_state() -> None:
    sections = {**private_sections(NODES), "evaluation": {"release": "final", "epsilon": 1.0}}
    policy = policy_of("fedadam", rounds=1, **sections)
    manifest = replace(manifest_of(policy_of("fedadam"), ODD), scalars=scalar_names(policy))  # the budget costs seconds
    before = stepped(policy, manifest, initial_state(policy, ODD), sum_of(manifest, 0)[1]).state
    assert policy.is_closing(1) and before.model.any()
    after = stepped(policy, manifest, before, sum_of(manifest, 1, closing=True)[1], round_number=1)
    assert after.state.digest == before.digest and after.norm == 0.0


@pytest.mark.parametrize("name", ["fedavg", "fedadam"])
def test_step_takes_memory_for_the_state_that_it_makes_and_a_few_blocks(name: str) -> None:
    dimension = 100 * BLOCK
    policy = policy_of(name)
    manifest = manifest_of(policy, dimension)
    _, total, _ = sum_of(manifest, 0)
    held = state_in(HeldVector(initial_state(policy, dimension).to_bytes()))
    next_state(policy, manifest, held, total, 3, round_number=0)  # tables that are made once
    tracemalloc.start()
    step = next_state(policy, manifest, held, total, 3, round_number=0)
    digest, written = step.state.digest, sum(len(chunk) for chunk in step.state.encoded(1 << 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(digest) == 32
    assert peak < written + 8 * CHUNK_BYTES < written + 8 * dimension  # less than one more float64 vector
