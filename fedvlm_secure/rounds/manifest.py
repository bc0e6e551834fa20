"""The manifest of a run, and of each change of its membership: made by the aggregator, made again by every node."""

from __future__ import annotations

import fedvlm_secure
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.noise_shares import scale_bits_of
from fedvlm_secure.policy.privacy import Distributed
from fedvlm_secure.policy.private_release import resolve_noise_multiplier
from fedvlm_secure.policy.projection import project
from fedvlm_secure.policy.schema import Policy
from fedvlm_secure.rounds.closing import Closing
from fedvlm_secure.rounds.terms import scalar_names
from fedvlm_secure.secagg.messages import Manifest
from fedvlm_secure.types import Digest, NodeId


def make_manifest(
    policy: Policy,
    *,
    run_id: bytes,
    nodes: tuple[NodeId, ...],
    base_fingerprint: Digest,
    layout_digest: Digest,
    dimension: int,
    aggregator: bytes,
    start_epoch: int,
    start: Closing,
) -> Manifest:
    """S0 for these nodes. A node makes it too, from its own approved policy, and compares every field.

    Args:
        start_epoch: number of the epoch that it opens, 0 for a new run.
        start: the closing to go on from, `rounds.start.new_start` for a new run.

    Raises:
        PolicyError: the policy cannot be carried out with these nodes.
    """
    feasible = feasibility.check(policy, len(nodes), frozenset(nodes))
    shared = isinstance(policy.privacy, Distributed)
    project(policy, dimension)  # refuses what cannot be paid for, or drowns in noise
    return Manifest(
        run_id=run_id,
        versions=versions_of(policy),
        nodes=nodes,
        policy_hash=policy_hash(policy),
        base_fingerprint=base_fingerprint,
        layout_digest=layout_digest,
        dimension=dimension,
        lanes_per_word=feasible.lanes.per_word,
        scalars=scalar_names(policy),
        max_update=policy.protection.max_update,
        scale_bits=scale_bits_of(dimension) if shared else feasible.scale_bits,
        privacy=policy.privacy.mechanism,
        protection=policy.protection.method,
        colluding=feasible.terms.c,
        threshold=feasible.terms.t,
        min_survivors=feasible.terms.min_survivors,
        rounds=policy.rounds_in_all,
        epoch_rounds=policy.cohort.epoch_rounds,
        hash_name="sha256",
        cipher_name="aes256-ctr",
        aggregator=aggregator,
        noise_multiplier=resolve_noise_multiplier(policy, dimension),
        start_epoch=start_epoch,
        start_round=start.round + 1,
        start_result=start.result_hash,
        start_state=start.state_hash,
    )


def versions_of(policy: Policy) -> tuple[str, ...]:
    """The package versions that may take part in one run: those the policy names, or the installed one alone.

    Raises:
        PolicyError: VERSION_MISMATCH, the installed one is not among them.
    """
    installed = fedvlm_secure.__version__
    versions = policy.cohort.versions or (installed,)
    if installed not in versions:
        raise PolicyError(
            "VERSION_MISMATCH",
            f"version {installed} is installed here, cohort.versions names {', '.join(versions)}",
            "install a version that the policy names",
        )
    return versions
