"""How a round was closed, the certificate that shows it, and the step from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedvlm_secure.errors import PeerViolation
from fedvlm_secure.fl.server import SERVER_STEPS, mean_update
from fedvlm_secure.fl.state import ServerState
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.ring.quantise import WEIGHT_BITS
from fedvlm_secure.rounds.terms import vector_of
from fedvlm_secure.secagg.cohort import Cohort
from fedvlm_secure.secagg.messages import Certificate, Manifest
from fedvlm_secure.secagg.record import Record, verify
from fedvlm_secure.types import Digest, NodeId, Words

NO_RESULT = Digest(bytes(32))
"""Stands in the chain before the first round."""


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


def initial_state(dimension: int) -> ServerState:
    """The common start: no difference from it yet."""
    return ServerState(np.zeros(dimension, dtype=np.float32))


def next_state(
    policy: Policy, manifest: Manifest, state: ServerState, total: Words, contributors: int
) -> tuple[ServerState, dict[str, int]]:
    """The replayed server step: unpack the sum, divide by the weights, apply the algorithm. Also the scalars' totals.

    Raises:
        ValueError: a check word does not fit, or the sum has another length.
        RunAborted: NO_WEIGHT.
    """
    integers, scalars = vector_of(manifest).unpack_sum(total, contributors)
    mean = mean_update(
        integers,
        scale_bits=manifest.scale_bits,
        weight_total=scalars["weight"],
        weight_bits=WEIGHT_BITS,
    )
    return SERVER_STEPS[policy.algorithm.name](state, mean), scalars
