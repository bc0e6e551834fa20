"""What a policy will have cost one patient after each round, and whether anything can be learnt under its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fedvlm_secure.dp.accounting import accountant_name, epsilon
from fedvlm_secure.dp.delta import require_delta
from fedvlm_secure.dp.events import SelfComposed, compose
from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT, score_noise
from fedvlm_secure.dp.signal import LARGEST_RATIO, dp_sgd_ratio, require_signal
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.privacy import DpSgd
from fedvlm_secure.policy.private_release import (
    one_release,
    resolve_noise_multiplier,
    resolve_score_multiplier,
    run_event,
)
from fedvlm_secure.policy.schema import DeclaredWeights, Policy
from fedvlm_secure.types import Digest

UNKNOWN_DIMENSION = 1
"""Stands for d where the model is not known yet; epsilon differs by less than one part in a thousand."""

_CACHE: dict[tuple[Digest, int], Projection] = {}
_LARGEST_CACHE = 64
_MOST_ROUNDS_SHOWN = 200


@dataclass(frozen=True)
class ScoreCost:
    """Noised releases of scores: what they add, and how much they blur.

    Attributes:
        releases: in the whole run.
        noise_multiplier: resolved.
        epsilon: of all of them together, the training left out.
        deviation: standard deviation of the noise on each released count at one hospital, in patients.
    """

    releases: int
    noise_multiplier: float
    epsilon: float
    deviation: float


@dataclass(frozen=True)
class Projection:
    """Epsilon of one patient at one hospital, against everybody who sees what leaves it.

    Attributes:
        noise_multiplier: sigma / C, resolved.
        trajectory: (closed rounds, epsilon), the last entry for the whole run.
        two_hospitals: epsilon of a patient at two of the hospitals.
        ratios: R by hospital, where the number of trained values is known.
        pooled: R of the mean over all hospitals, as far as known.
        warnings: in plain words.
        accountant: name, version and grid.
        scores: where noised scores are released.
    """

    epsilon: float
    delta: float
    adjacency: str
    noise_multiplier: float
    trajectory: tuple[tuple[int, float], ...]
    two_hospitals: float | None
    ratios: Mapping[str, float]
    pooled: float | None
    warnings: tuple[str, ...]
    accountant: str
    scores: ScoreCost | None

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "unit": "patient at one hospital",
            "adjacency": self.adjacency,
            "epsilon_limit": self.epsilon,
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "epsilon_by_round": [{"round": done, "epsilon": cost} for done, cost in self.trajectory],
            "epsilon_two_hospitals": self.two_hospitals,
            "noise_to_signal": dict(self.ratios),
            "noise_to_signal_pooled": self.pooled,
            "warnings": list(self.warnings),
            "accountant": self.accountant,
            "released_scores": None if self.scores is None else asdict(self.scores),
        }


def project(policy: Policy, dimension: int | None = None) -> Projection | None:
    """The projection of a policy; None under mechanism `none`, where no number can be stated.

    Args:
        policy: a loaded policy.
        dimension: d, trained values, where known; R is computed then.

    Raises:
        PolicyError: EPSILON_EXCEEDED, EPSILON_UNREACHABLE, or NOISE_DROWNS_SIGNAL (pooled R above 10).
    """
    if not isinstance(policy.privacy, DpSgd):
        return None
    key = (policy_hash(policy), dimension or UNKNOWN_DIMENSION)
    if key not in _CACHE:
        if len(_CACHE) >= _LARGEST_CACHE:
            _CACHE.clear()
        _CACHE[key] = _project(policy, policy.privacy, dimension)
    return _CACHE[key]


def _project(policy: Policy, privacy: DpSgd, dimension: int | None) -> Projection:
    d, rounds = dimension or UNKNOWN_DIMENSION, policy.rounds_in_all
    multiplier = resolve_noise_multiplier(policy, d)
    step = max(1, rounds // _MOST_ROUNDS_SHOWN)
    shown = sorted({*range(step, rounds + 1, step), policy.rounds, rounds})
    costs = tuple(
        (done, epsilon(run_event(policy, multiplier, d, done), privacy.delta, privacy.adjacency)) for done in shown
    )
    whole = run_event(policy, multiplier, d, rounds)
    ratios, pooled, drowned = _signal(policy, privacy, multiplier, dimension)
    smallest = min(privacy.expected_patients.values())
    delta_warning = require_delta(privacy.delta, smallest)
    return Projection(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        adjacency=privacy.adjacency,
        noise_multiplier=multiplier,
        trajectory=costs,
        two_hospitals=epsilon(compose((whole, whole)), privacy.delta, privacy.adjacency),
        ratios=ratios,
        pooled=pooled,
        warnings=(*drowned, *((delta_warning,) if delta_warning else ())),
        accountant=accountant_name(),
        scores=_scores(policy, privacy),
    )


def _scores(policy: Policy, privacy: DpSgd) -> ScoreCost | None:
    multiplier, tasks = resolve_score_multiplier(policy), len(policy.contract.tasks)
    if not multiplier:
        return None
    releases = policy.releases_before(policy.rounds_in_all)
    return ScoreCost(
        releases=releases,
        noise_multiplier=multiplier,
        epsilon=epsilon(SelfComposed(one_release(policy), releases), privacy.delta, privacy.adjacency),
        deviation=math.sqrt(score_noise(multiplier, tasks).share_variance) / STEPS_PER_PATIENT,
    )


def _signal(
    policy: Policy, privacy: DpSgd, multiplier: float, dimension: int | None
) -> tuple[dict[str, float], float | None, tuple[str, ...]]:
    if dimension is None:
        return {}, None, ()
    nodes = sorted(privacy.expected_patients)
    batches = [privacy.sampling_rate * privacy.expected_patients[node] for node in nodes]
    declared = policy.weights.declared if isinstance(policy.weights, DeclaredWeights) else {}
    ratio = dp_sgd_ratio(multiplier, dimension, batches, [float(declared.get(node, not declared)) for node in nodes])
    try:
        require_signal(ratio)
    except PolicyError as refused:
        raise PolicyError(refused.code, f"{dimension} trained values: {refused.cause}", refused.hint) from refused
    drowned = tuple(
        f"{nodes[at]}: its own noise is {ratio.per_hospital[at]:.1f} times its clipped step (above {LARGEST_RATIO:g})"
        for at in ratio.warnings()
    )
    return dict(zip(nodes, ratio.per_hospital, strict=True)), ratio.pooled, drowned
