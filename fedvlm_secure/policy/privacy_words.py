"""What a policy promises a patient, in the words that an operator reads before approving."""

from __future__ import annotations

import math

from fedvlm_secure.policy import thresholds
from fedvlm_secure.policy.noise_shares import Makers, makers_of
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
from fedvlm_secure.policy.projection import Projection, ScoreCost, SharedCost, project
from fedvlm_secure.policy.schema import Policy

_LINES_SHOWN = 12

NO_PROMISE = (
    "nothing is promised: no epsilon can be stated",
    "this hospital's ledger marks the population for ever as released without formal protection",
)


def promise(policy: Policy, dimension: int | None = None) -> tuple[str, ...]:
    """The promise to one patient, line by line.

    Args:
        policy: a loaded policy.
        dimension: d, trained values, where known; the noise is then put beside the signal.

    Raises:
        PolicyError: as `project`.
    """
    projection = project(policy, dimension)
    privacy = policy.privacy
    if projection is None or not isinstance(privacy, PatientPrivacy):
        return NO_PROMISE
    whole, rounds = projection.trajectory[-1][1], policy.rounds_in_all
    twice = projection.two_hospitals
    lines = [
        f"one patient at one hospital: epsilon {whole:.2f} at delta {privacy.delta:g} after all {rounds} rounds "
        f"({_adjacency(privacy)})",
        f"it holds against {holds_against(policy)}",
        *(() if projection.shared is None else _others(projection.shared)),
        f"epsilon after each round: {_trajectory(projection)}",
        f"a patient at two of these hospitals: epsilon {_shown(twice)}",
        _noise(privacy, projection),
        f"counted by {projection.accountant}",
        "each round is charged to this hospital's ledger before its update leaves, and never given back",
    ]
    if projection.pooled is not None:
        lines.append(
            f"noise beside the clipped step: {projection.pooled:.2f} times over all hospitals together; "
            + ", ".join(f"{node} {ratio:.2f}" for node, ratio in projection.ratios.items())
        )
    if projection.scores is not None:
        lines.append(_scores(projection.scores, len(privacy.expected_patients)))
    lines += [f"WARNING: {warning}" for warning in projection.warnings]
    return tuple(lines)


def holds_against(policy: Policy) -> str:
    """Against whom the number of record holds, and what it rests on."""
    if not isinstance(policy.privacy, Distributed):
        return "everybody: the aggregator, all other hospitals together, and readers of the model"
    makers = makers_of(policy)
    tolerated = thresholds.resolve(policy.cohort, policy.cohort.min_nodes).c
    honest = "" if tolerated else ", which follows the protocol and tells what it knows"
    return (
        f"readers of the model, and the aggregator with {_hospitals(makers.coalition)} on its side{honest}: "
        f"{makers.counted} others at least make their noise in every sum; it rests on the masks (AES-256, X25519)"
    )


def not_against(makers: Makers) -> str:
    """What the promise of shared noise does not hold against."""
    return (
        f"noise is shared: with {makers.coalition + 1} hospitals or more on the aggregator's side, or with the masks "
        "broken, less of it is left, and epsilon is larger"
    )


def _hospitals(count: int) -> str:
    return "one other hospital" if count == 1 else f"{count} other hospitals"


def _shown(cost: float | None) -> str:
    return "without a bound that is computed" if cost is None else f"{cost:.2f}"


def _others(shared: SharedCost) -> tuple[str, ...]:
    return (
        f"against the aggregator alone, and readers of the model: epsilon {shared.readers:.2f}",
        f"if every other hospital helps the aggregator: epsilon {_shown(shared.alone)}, by this hospital's own share "
        "of the noise",
    )


def _noise(privacy: PatientPrivacy, projection: Projection) -> str:
    drawn = f"every patient with chance {privacy.sampling_rate:g}"
    if projection.shared is None:
        return (
            f"noise of {projection.noise_multiplier:g} times the clip norm {privacy.clip_norm:g} is added in each of "
            f"{privacy.steps_per_round} steps a round; each step draws {drawn}"
        )
    shared = projection.shared
    return (
        f"each hospital adds a share of noise, {shared.share_deviation:.3g} times the clip norm {privacy.clip_norm:g}, "
        f"inside the mask; {shared.makers} shares, {projection.noise_multiplier:g} times it, are counted on; each "
        f"round draws {drawn}"
    )


def _scores(scores: ScoreCost, hospitals: int) -> str:
    pooled = scores.deviation * math.sqrt(hospitals)
    return (
        f"released scores ({scores.releases} in all) are a part of it, epsilon {scores.epsilon:.2f} by themselves; "
        f"noise of standard deviation {scores.deviation:.1f} patients is added to each count at each hospital, "
        f"{pooled:.1f} in the sum over {hospitals}"
    )


def not_covered(policy: Policy) -> tuple[str, ...]:
    """What stays outside the promise, or that there is none."""
    if not isinstance(policy.privacy, PatientPrivacy):
        return ("the tuned model and each round's sum: no differential privacy, so no epsilon can be stated",)
    return (
        *((not_against(makers_of(policy)),) if isinstance(policy.privacy, Distributed) else ()),
        "a patient's presence at this hospital is hidden up to epsilon, not absolutely",
        "what a model learns about patients in general, which holds for somebody who never took part, too",
        "each hospital's expected number of patients, which stands in the policy",
    )


def _trajectory(projection: Projection) -> str:
    shown = projection.trajectory
    if len(shown) > _LINES_SHOWN:
        step = -(-len(shown) // _LINES_SHOWN)
        shown = (*shown[step - 1 :: step][:-1], projection.trajectory[-1])
    return ", ".join(f"{cost:.2f} ({done})" for done, cost in shown)


def _adjacency(privacy: PatientPrivacy) -> str:
    return "one added or removed" if privacy.adjacency == "add_or_remove" else "one replaced by another"
