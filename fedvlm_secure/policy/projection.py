"""What a policy will have cost one patient after each round, and whether anything can be learnt under its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from fedvlm_secure.dp.accounting import accountant_name, computable, epsilon
from fedvlm_secure.dp.delta import require_delta
from fedvlm_secure.dp.events import Event, SelfComposed, compose
from fedvlm_secure.dp.rounding import grid_steps_for
from fedvlm_secure.dp.score_release import STEPS_PER_PATIENT, score_noise
from fedvlm_secure.dp.signal import LARGEST_RATIO, NoiseToSignal, distributed_ratio, dp_sgd_ratio, require_signal
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.hashing import policy_hash
from fedvlm_secure.policy.noise_shares import box_of, makers_of, noise_of, observers_in, spare_noise
from fedvlm_secure.policy.privacy import Distributed, PatientPrivacy
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
class SharedCost:
    """Under `distributed`: epsilon of the whole run for others than the coalition that the trajectory counts with.

    Attributes:
        makers: honest noise makers counted on in the trajectory, the number of record.
        coalition: hospitals whose shares are not counted there.
        readers: epsilon against the aggregator alone and readers of the model; no hospital tells its share.
        alone: epsilon if every other hospital is dishonest; None where no bound is computed.
        share_deviation: standard deviation of one hospital's share over the clip norm.
    """

    makers: int
    coalition: int
    readers: float
    alone: float | None
    share_deviation: float


@dataclass(frozen=True)
class Projection:
    """Epsilon of one patient at one hospital: under `dp_sgd` against everybody who sees what leaves it, under
    `distributed` against a coalition of some hospitals with the aggregator.

    Attributes:
        noise_multiplier: sigma / C, resolved.
        trajectory: (closed rounds, epsilon), the last entry for the whole run.
        two_hospitals: epsilon of a patient at two of the hospitals; None where no bound is computed.
        ratios: R by hospital, where the number of trained values is known.
        pooled: R of the mean over all hospitals, as far as known.
        warnings: in plain words.
        accountant: name, version and grid.
        scores: where noised scores are released.
        shared: under `distributed`.
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
    shared: SharedCost | None

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
            "shared_noise": None if self.shared is None else asdict(self.shared),
        }


def project(policy: Policy, dimension: int | None = None) -> Projection | None:
    """The projection of a policy; None under mechanism `none`, where no number can be stated.

    Args:
        policy: a loaded policy.
        dimension: d, trained values, where known; R is computed then.

    Raises:
        PolicyError: EPSILON_EXCEEDED, EPSILON_UNREACHABLE, NOISE_DROWNS_SIGNAL (pooled R above 10), or under
            `distributed` RING_HEADROOM.
    """
    if not isinstance(policy.privacy, PatientPrivacy):
        return None
    key = (policy_hash(policy), dimension or UNKNOWN_DIMENSION)
    if key not in _CACHE:
        if len(_CACHE) >= _LARGEST_CACHE:
            _CACHE.clear()
        _CACHE[key] = _project(policy, policy.privacy, dimension)
    return _CACHE[key]


def _project(policy: Policy, privacy: PatientPrivacy, dimension: int | None) -> Projection:
    d, rounds = dimension or UNKNOWN_DIMENSION, policy.rounds_in_all
    multiplier = resolve_noise_multiplier(policy, d)
    step = max(1, rounds // _MOST_ROUNDS_SHOWN)
    shown = sorted({*range(step, rounds + 1, step), policy.rounds, rounds})
    costs = tuple(
        (done, epsilon(run_event(policy, multiplier, d, done), privacy.delta, privacy.adjacency)) for done in shown
    )
    whole = run_event(policy, multiplier, d, rounds)
    shared, twice = _shared(policy, privacy, multiplier, d, whole)
    if isinstance(privacy, Distributed) and dimension is not None:
        box_of(policy, privacy, multiplier, dimension)
    ratios, pooled, drowned = _signal(policy, privacy, multiplier, dimension)
    smallest = min(privacy.expected_patients.values())
    told = (require_delta(privacy.delta, smallest), spare_noise(policy))
    return Projection(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        adjacency=privacy.adjacency,
        noise_multiplier=multiplier,
        trajectory=costs,
        two_hospitals=_bounded(twice, privacy),
        ratios=ratios,
        pooled=pooled,
        warnings=(*drowned, *(warning for warning in told if warning)),
        accountant=accountant_name(),
        scores=_scores(policy, privacy),
        shared=shared,
    )


def _shared(
    policy: Policy, privacy: PatientPrivacy, multiplier: float, dimension: int, whole: Event
) -> tuple[SharedCost | None, Event]:
    """What a run means for other observers, and for a patient at two hospitals."""
    views = observers_in(policy, multiplier, dimension)
    if views is None:
        return None, compose((whole, whole))
    makers, noise = makers_of(policy), noise_of(policy, privacy, multiplier, dimension)
    cost = SharedCost(
        makers=makers.counted,
        coalition=makers.coalition,
        readers=epsilon(views.to_readers(whole), privacy.delta),
        alone=_bounded(views.to_everybody_else(whole), privacy),
        share_deviation=math.sqrt(noise.share_variance) / grid_steps_for(dimension),
    )
    return cost, views.at_two_hospitals(whole)


def _bounded(event: Event, privacy: PatientPrivacy) -> float | None:
    """Epsilon, or None where no bound is computed."""
    found = epsilon(event, privacy.delta, privacy.adjacency) if computable(event) else math.inf
    return found if math.isfinite(found) else None


def _scores(policy: Policy, privacy: PatientPrivacy) -> ScoreCost | None:
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
    policy: Policy, privacy: PatientPrivacy, multiplier: float, dimension: int | None
) -> tuple[dict[str, float], float | None, tuple[str, ...]]:
    if dimension is None:
        return {}, None, ()
    nodes = sorted(privacy.expected_patients)
    ratio = signal_of(policy, privacy, nodes, multiplier, dimension)
    try:
        require_signal(ratio)
    except PolicyError as refused:
        raise PolicyError(refused.code, f"{dimension} trained values: {refused.cause}", refused.hint) from refused
    if isinstance(privacy, Distributed):  # a hospital's own part is seen by nobody, whatever drowns in it
        return dict(zip(nodes, ratio.per_hospital, strict=True)), ratio.pooled, ()
    drowned = tuple(
        f"{nodes[at]}: its own noise is {ratio.per_hospital[at]:.1f} times its clipped step (above {LARGEST_RATIO:g})"
        for at in ratio.warnings()
    )
    return dict(zip(nodes, ratio.per_hospital, strict=True)), ratio.pooled, drowned


def signal_of(
    policy: Policy, privacy: PatientPrivacy, nodes: Sequence[str], multiplier: float, dimension: int
) -> NoiseToSignal:
    """R of each of these hospitals and pooled over all of them; see `dp.signal`."""
    batches = [privacy.sampling_rate * privacy.expected_patients[node] for node in nodes]
    if isinstance(privacy, Distributed):
        share = math.sqrt(noise_of(policy, privacy, multiplier, dimension).share_variance) / grid_steps_for(dimension)
        return distributed_ratio(share, dimension, batches)
    declared = policy.weights.declared if isinstance(policy.weights, DeclaredWeights) else {}
    return dp_sgd_ratio(multiplier, dimension, batches, [float(declared.get(node, not declared)) for node in nodes])
