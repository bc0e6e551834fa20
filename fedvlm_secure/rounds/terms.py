"""What both sides derive from the policy: the manifest, the cohort, the vector. Nobody takes it from the other."""

from __future__ import annotations

from collections.abc import Mapping

import fedvlm_secure
from fedvlm_secure.errors import ModelError
from fedvlm_secure.policy import feasibility
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.privacy import DpSgd
from fedvlm_secure.policy.private_release import resolve_noise_multiplier
from fedvlm_secure.policy.projection import project
from fedvlm_secure.policy.schema import CountedWeights, DeclaredWeights, Policy
from fedvlm_secure.ring.lanes import lane_format
from fedvlm_secure.ring.quantise import WEIGHT_BITS, grid_weight
from fedvlm_secure.ring.vector import SCALAR_LIMIT, VectorFormat
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.secagg.cohort import Cohort, context
from fedvlm_secure.secagg.messages import Manifest, Plan
from fedvlm_secure.types import Digest, NodeId

LOSS_BITS = 16
"""Loss sums ride in units of 2^-16."""


def scalar_names(policy: Policy) -> tuple[str, ...]:
    """The per-node numbers that ride as whole words, in order; under differential privacy the public weight alone."""
    if isinstance(policy.privacy, DpSgd):
        return ("weight",)
    names = ["weight", "loss_sum", "loss_count"]
    if policy.evaluation.release == "totals":
        names += [f"{kind}:{task}" for task in policy.contract.tasks for kind in ("correct", "total")]
    return tuple(names)


def scalar_values(policy: Policy, update: LocalUpdate, weight: int) -> dict[str, int]:
    """One node's numbers for `scalar_names`, as non-negative integers.

    Raises:
        ModelError: NON_FINITE_LOSS, a loss sum that is NaN, infinite, negative or too large for its word.
    """
    if isinstance(policy.privacy, DpSgd):
        return {"weight": weight}
    if not 0.0 <= update.loss_sum < SCALAR_LIMIT >> LOSS_BITS:
        raise ModelError(
            "NON_FINITE_LOSS",
            f"the training loss summed over {update.loss_count} rows is not a number in [0, 2^32)",
            "lower local.learning_rate; nothing was sent",
        )
    values = {
        "weight": weight,
        "loss_sum": round(update.loss_sum * (1 << LOSS_BITS)) * bool(weight),
        "loss_count": update.loss_count,
    }
    if policy.evaluation.release == "totals":
        for task in policy.contract.tasks:
            values[f"correct:{task}"] = update.correct.get(task, 0)
            values[f"total:{task}"] = update.total.get(task, 0)
    return values


def node_weight(policy: Policy, node: NodeId, rows: int) -> int:
    """A node's weight on the public grid: equal, by its declared size, or by its capped number of rows."""
    match policy.weights:
        case CountedWeights(counted=counted):
            return grid_weight(min(rows, counted.cap) / counted.cap)
        case DeclaredWeights(declared=declared):
            return grid_weight(declared[node] / max(declared.values()))
        case _:
            return 1 << WEIGHT_BITS


def make_manifest(
    policy: Policy,
    *,
    run_id: bytes,
    nodes: tuple[NodeId, ...],
    base_fingerprint: Digest,
    layout_digest: Digest,
    dimension: int,
    aggregator: bytes,
) -> Manifest:
    """S0 for these nodes. A node makes it too, from its own approved policy, and compares every field.

    Raises:
        PolicyError: the policy cannot be carried out with these nodes.
    """
    feasible = feasibility.check(policy, len(nodes), frozenset(nodes))
    project(policy, dimension)  # refuses what cannot be paid for, or drowns in noise
    return Manifest(
        run_id=run_id,
        version=fedvlm_secure.__version__,
        nodes=nodes,
        policy_hash=policy_hash(policy),
        base_fingerprint=base_fingerprint,
        layout_digest=layout_digest,
        dimension=dimension,
        lanes_per_word=feasible.lanes.per_word,
        scalars=scalar_names(policy),
        max_update=policy.protection.max_update,
        scale_bits=feasible.scale_bits,
        privacy=policy.privacy.mechanism,
        protection=policy.protection.method,
        colluding=feasible.terms.c,
        threshold=feasible.terms.t,
        min_survivors=feasible.terms.min_survivors,
        rounds=policy.rounds,
        epoch_rounds=policy.cohort.epoch_rounds,
        hash_name="sha256",
        cipher_name="aes256-ctr",
        aggregator=aggregator,
        noise_multiplier=resolve_noise_multiplier(policy, dimension),
    )


def cohort_of(manifest: Manifest) -> Cohort:
    """The epoch's constants."""
    return Cohort(manifest.nodes, manifest.colluding, manifest.threshold, manifest.min_survivors)


def vector_of(manifest: Manifest) -> VectorFormat:
    """The protected vector of a run."""
    lanes = lane_format(manifest.lanes_per_word, len(manifest.nodes))
    return VectorFormat(manifest.dimension, lanes, manifest.scalars)


def context_of(plan: Plan, manifest: Manifest) -> Digest:
    """`ctx` of the attempt a plan opens."""
    return context(
        roster_hash=plan.roster_hash,
        round_number=plan.round,
        attempt=plan.attempt,
        state_hash=plan.state_hash,
        previous_result=plan.previous_result,
        protection=manifest.protection,
        lanes_per_word=manifest.lanes_per_word,
        cohort=cohort_of(manifest),
    )


def totals(scalars: Mapping[str, int]) -> dict[str, object]:
    """The cohort's totals of a round in readable form: weight, mean loss (None where none rode), accuracy per task."""
    count = scalars.get("loss_count", 0)
    tasks = [name.removeprefix("total:") for name in scalars if name.startswith("total:")]
    return {
        "weight": scalars["weight"] / (1 << WEIGHT_BITS),
        "loss": scalars["loss_sum"] / (1 << LOSS_BITS) / count if count else None,
        "tasks": {task: {"correct": scalars[f"correct:{task}"], "total": scalars[f"total:{task}"]} for task in tasks},
    }
