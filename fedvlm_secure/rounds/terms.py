"""What both sides derive from policy and manifest: the cohort, the vector. Nobody takes it from the other."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT, score_noise
from fedvlm_secure.dp.streams import KEY_BYTES
from fedvlm_secure.errors import ModelError
from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.private_release import resolve_score_multiplier
from fedvlm_secure.policy.schema import CountedWeights, DeclaredWeights, Policy
from fedvlm_secure.ring.lanes import lane_format
from fedvlm_secure.ring.quantise import WEIGHT_BITS, grid_weight
from fedvlm_secure.ring.vector import SCALAR_LIMIT, VectorFormat
from fedvlm_secure.rounds.actions import LocalUpdate
from fedvlm_secure.secagg.cohort import Cohort, context
from fedvlm_secure.secagg.messages import Manifest, Plan
from fedvlm_secure.types import Digest, Entropy, NodeId, Secret

RIGHT, WRONG = "right", "wrong"
"""Kinds of noised scalars: `right:TASK`, `wrong:TASK`, in steps of 1/1024 patient."""

LOSS_BITS = 16
"""Loss sums ride in units of 2^-16."""


def scalar_names(policy: Policy) -> tuple[str, ...]:
    """The per-node numbers that ride as whole words, in order.

    Under differential privacy the public weight alone, and noised scores where the policy releases any.
    """
    if isinstance(policy.privacy, PatientPrivacy):
        return ("weight", *(_score_names(policy) if policy.evaluation.is_noised else ()))
    names = ["weight", "loss_sum", "loss_count"]
    if policy.evaluation.release == "totals":
        names += [f"{kind}:{task}" for task in policy.contract.tasks for kind in ("correct", "total")]
    return tuple(names)


def _score_names(policy: Policy) -> tuple[str, ...]:
    return tuple(f"{kind}:{task}" for task in policy.contract.tasks for kind in (RIGHT, WRONG))


def scalar_values(
    policy: Policy, update: LocalUpdate, weight: int, *, round_number: int, entropy: Entropy
) -> dict[str, int]:
    """One node's numbers for `scalar_names`: non-negative, but for noised scores.

    Noise is added here and nowhere else, whatever local work handed over, before the values are journalled; a round
    that releases no scores carries zeros in their place.

    Args:
        round_number: counted from 0.
        entropy: of the noise.

    Raises:
        ModelError: NON_FINITE_LOSS, a loss sum that is NaN, infinite, negative or too large for its word.
    """
    if isinstance(policy.privacy, PatientPrivacy):
        return {"weight": weight, **_noised_scores(policy, update, round_number, entropy)}
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


def _noised_scores(policy: Policy, update: LocalUpdate, round_number: int, entropy: Entropy) -> dict[str, int]:
    """Sums over test patients in steps of 1/1024 patient, plus one draw of exact discrete Gaussian noise each."""
    if not policy.evaluation.is_noised:
        return {}
    names = _score_names(policy)
    if not policy.releases_scores(round_number):
        return dict.fromkeys(names, 0)
    noise = score_noise(resolve_score_multiplier(policy), len(policy.contract.tasks))
    drawn = DiscreteGaussian(noise.share_variance).sample(Secret(entropy.bytes(KEY_BYTES)), len(names))
    exact = {f"{RIGHT}:{task}": steps for task, steps in update.right.items()}
    exact |= {f"{WRONG}:{task}": steps for task, steps in update.wrong.items()}
    return {name: exact.get(name, 0) + int(added) for name, added in zip(names, drawn, strict=True)}


def node_weight(policy: Policy, node: NodeId, rows: int) -> int:
    """A node's weight on the public grid: equal, by its declared size, or by its capped number of rows."""
    match policy.weights:
        case CountedWeights(counted=counted):
            return grid_weight(min(rows, counted.cap) / counted.cap)
        case DeclaredWeights(declared=declared):
            return grid_weight(declared[node] / max(declared.values()))
        case _:
            return 1 << WEIGHT_BITS


def cohort_of(manifest: Manifest) -> Cohort:
    """The epoch's constants."""
    return Cohort(manifest.nodes, manifest.colluding, manifest.threshold, manifest.min_survivors)


def vector_of(manifest: Manifest, *, closing: bool = False) -> VectorFormat:
    """The protected vector of a round.

    Args:
        closing: of the round that trains nothing: one coordinate, which is zero, stands for the update.
    """
    lanes = lane_format(manifest.lanes_per_word, len(manifest.nodes))
    signed = frozenset(name for name in manifest.scalars if name.partition(":")[0] in (RIGHT, WRONG))
    return VectorFormat(1 if closing else manifest.dimension, lanes, manifest.scalars, signed)


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


def totals(policy: Policy, scalars: Mapping[str, int], *, round_number: int, contributors: int) -> dict[str, object]:
    """The cohort's totals of a round in readable form.

    Returns:
        weight; mean loss, None where none rode; exact counts per task; and, under `released`, noised numbers of
        patients per task with the standard deviation of the noise in them. These may be negative.
    """
    count = scalars.get("loss_count", 0)
    tasks = [name.removeprefix("total:") for name in scalars if name.startswith("total:")]
    return {
        "weight": scalars["weight"] / (1 << WEIGHT_BITS),
        "loss": scalars["loss_sum"] / (1 << LOSS_BITS) / count if count else None,
        "tasks": {task: {"correct": scalars[f"correct:{task}"], "total": scalars[f"total:{task}"]} for task in tasks},
        "released": _released(policy, scalars, contributors) if policy.releases_scores(round_number) else {},
    }


def _released(policy: Policy, scalars: Mapping[str, int], contributors: int) -> dict[str, dict[str, float]]:
    noise = score_noise(resolve_score_multiplier(policy), len(policy.contract.tasks))
    deviation = math.sqrt(noise.actual_variance(contributors)) / STEPS_PER_PATIENT
    return {
        task: {
            "right": scalars[f"{RIGHT}:{task}"] / STEPS_PER_PATIENT,
            "wrong": scalars[f"{WRONG}:{task}"] / STEPS_PER_PATIENT,
            "deviation": deviation,
        }
        for task in policy.contract.tasks
    }
