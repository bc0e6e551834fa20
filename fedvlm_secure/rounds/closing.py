"""How a round was closed, the certificate that shows it, and the step from one state to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.fl.algorithms import Adaptive, PlainAverage, ServerAlgorithm, ServerMomentum, adagrad, adam, yogi
from fedvlm_secure.fl.server import mean_update
from fedvlm_secure.fl.state import ServerState, State
from fedvlm_secure.policy.algorithms import Algorithm, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.ring.quantise import WEIGHT_BITS
from fedvlm_secure.rounds.noised_sum import mean_gradient, noise_in_mean
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.messages import Certificate, Manifest
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.types import Digest, Float32Vector, Float64Vector, Int64Vector, NodeId, Words

NO_RESULT = Digest(bytes(32))
"""Stands in the chain before the first round."""

STAGE = "stage"
"""Number in the state of a two-stage run: 0.0 while it trains the connector, 1.0 with the first step of LoRA."""


@dataclass(frozen=True, kw_only=True)
class Closing(Record):
    """Where a party stands: the last closed round (-1 before the first), its place in the chain, the state after it."""

    round: int
    result_hash: Digest
    state_hash: Digest


def check_certificate(
    certificate: Certificate, *, run_hash: Digest, cohort: Cohort, identities: Mapping[NodeId, bytes]
) -> Closing:
    """t acknowledgements of distinct roster members that agree; what they agree on.

    Raises:
        PeerViolation: BAD_CERTIFICATE or BAD_SIGNATURE.
    """
    members = [ack for ack in certificate.acks if ack.node in cohort.index]
    if certificate.run_hash != run_hash or len(members) < cohort.threshold:
        raise PeerViolation(
            "BAD_CERTIFICATE",
            f"{len(members)} of {cohort.threshold} needed acknowledgements stand under the last round",
            "the aggregator must show t acknowledgements of the state it asks to continue from",
        )
    for ack in members:
        verify(ack, identities[ack.node])
    return Closing(round=certificate.round, result_hash=certificate.result_hash, state_hash=certificate.state_hash)


def server_algorithm(section: Algorithm, *, known_noise: bool = False) -> ServerAlgorithm:
    """The step that a policy names, with the policy's numbers.

    Args:
        known_noise: the mean carries noise of a known variance, which second moments leave out (`distributed` alone).
    """
    match section:
        case FedAvgM():
            return ServerMomentum(section.server_lr, section.momentum, damped=section.reference_compat)
        case FedAdagrad():
            return Adaptive(adagrad, section.server_lr, section.tau, section.beta1, beta2=0.0)
        case FedAdam() | FedYogi():
            rule = adam if isinstance(section, FedAdam) else yogi
            return Adaptive(
                rule,
                section.server_lr,
                section.tau,
                section.beta1,
                section.beta2,
                momentum_squared=section.reference_compat,
                corrected=known_noise,
            )
        case FedAvg() | FedProx():
            return PlainAverage()


def initial_state(policy: Policy, dimension: int) -> ServerState:
    """The common start: no difference from it yet, and the memory that the policy's algorithm begins with."""
    return _begin(policy, np.zeros(dimension, dtype=np.float32), round_number=0)


@dataclass(frozen=True)
class Step:
    """What came of a round's sum.

    Args:
        state: after the round.
        scalars: totals of what rides beside the lanes.
        norm: L2, of the model's way from the state before.
    """

    state: ServerState
    scalars: dict[str, int]
    norm: float


def next_state(
    policy: Policy, manifest: Manifest, before: State, total: Words, contributors: int, *, round_number: int
) -> Step:
    """The replayed server step: unpack the sum, divide by the weights, apply the algorithm, block by block.

    Beside the state that it makes, memory holds a few blocks.

    Args:
        before: read once, block by block; a stored one need not be loaded.
        round_number: of the round that gave the sum, counted from 0. A closing round leaves the state as it is.

    Raises:
        ValueError: a check word does not fit, or the sum has another length.
        RunAborted: NO_WEIGHT.
    """
    closing = policy.is_closing(round_number)
    vector, algorithm = vector_of(manifest, closing=closing), _algorithm(policy)
    scalars = vector.sum_scalars(total, contributors)
    squares, noise = 0.0, _known_noise(policy, manifest, contributors)

    def stepped() -> Iterator[ServerState]:
        nonlocal squares
        start = 0
        for part in before.parts():
            integers = vector.sum_block(total, contributors, start, len(part.model))
            start += len(integers)
            mean = _mean(policy, manifest, integers, scalars)
            if part.numbers.get(STAGE) != _stage_number(policy, round_number):
                # the connector's momentum would go on moving it in rounds that train LoRA alone
                part = _begin(policy, part.model, round_number)
            after = algorithm.step(part, mean, noise)
            way = np.subtract(after.model, part.model).astype(np.float64)
            squares += float(np.multiply(way, way).sum())  # no part of the hashed state: it may differ in the last bits
            yield after

    # momentum or not: a round that trained nothing moves nothing
    state = ServerState.joined(before.form.dimension, before.parts() if closing else stepped())
    return Step(state, scalars, math.sqrt(squares))


def _algorithm(policy: Policy) -> ServerAlgorithm:
    return server_algorithm(policy.algorithm, known_noise=isinstance(policy.privacy, Distributed))


def _mean(policy: Policy, manifest: Manifest, integers: Int64Vector, scalars: Mapping[str, int]) -> Float64Vector:
    """What a block of the exact sum comes to, float64: the weighted mean update, or the mean gradient's step."""
    if isinstance(policy.privacy, Distributed):
        return mean_gradient(policy, policy.privacy, integers, dimension=manifest.dimension)
    return mean_update(
        integers, scale_bits=manifest.scale_bits, weight_total=scalars["weight"], weight_bits=WEIGHT_BITS
    )


def _known_noise(policy: Policy, manifest: Manifest, contributors: int) -> float:
    if not isinstance(policy.privacy, Distributed):
        return 0.0
    return noise_in_mean(policy, policy.privacy, manifest.noise_multiplier, manifest.dimension, contributors)


def _begin(policy: Policy, model: Float32Vector, round_number: int) -> ServerState:
    state, stage = _algorithm(policy).begin(model), _stage_number(policy, round_number)
    return state if stage is None else replace(state, numbers={**state.numbers, STAGE: stage})


def _stage_number(policy: Policy, round_number: int) -> float | None:
    stage = policy.model.stage_at(round_number)
    return None if stage is None else float(stage == "lora")
