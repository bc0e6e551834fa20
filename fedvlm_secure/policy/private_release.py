"""What a private run releases, as events: the same at every party, from the policy and the number of trained values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fedvlm_secure.dp.accounting import Adjacency, epsilon
from fedvlm_secure.dp.calibration import GRID_PER_UNIT, calibrate, calibrate_sampled_gaussian
from fedvlm_secure.dp.events import Composed, Event, Gaussian, NonPrivate, PoissonSampled, SelfComposed
from fedvlm_secure.dp.score_release import score_event
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.noise_shares import makers_of, shares
from fedvlm_secure.policy.privacy import PatientPrivacy
from fedvlm_secure.policy.schema import Policy

NOTHING = Composed(())


@dataclass(frozen=True)
class _Asked:
    """What the multiplier depends on."""

    epsilon: float
    delta: float
    adjacency: Adjacency
    clip_norm: float
    sampling_rate: float
    steps: int
    makers: int
    scores: Event


def resolve_noise_multiplier(policy: Policy, dimension: int) -> float:
    """sigma / C of a run; `auto` is the smallest multiple of 1/1024 that keeps all rounds within epsilon.

    Args:
        policy: a loaded policy.
        dimension: d, trained values.

    Returns:
        0.0 under mechanism `none`.

    Raises:
        PolicyError: EPSILON_UNREACHABLE, or EPSILON_EXCEEDED by a multiplier that stands in the policy.
    """
    privacy = policy.privacy
    if not isinstance(privacy, PatientPrivacy):
        return 0.0
    asked = _Asked(
        privacy.epsilon,
        privacy.delta,
        privacy.adjacency,
        privacy.clip_norm,
        privacy.sampling_rate,
        policy.rounds * privacy.steps_per_round,
        makers_of(policy).counted,
        _all_scores(policy),
    )
    _require_room(asked)
    if privacy.noise_multiplier == "auto":
        return _smallest(asked, dimension)
    costs = _cost(asked, privacy.noise_multiplier, dimension)
    if costs > privacy.epsilon:
        beside = " and the released scores" if asked.scores != NOTHING else ""
        raise PolicyError(
            "EPSILON_EXCEEDED",
            f"privacy.noise_multiplier {privacy.noise_multiplier:g} costs epsilon {costs:.3f} over {policy.rounds} "
            f"rounds{beside}, privacy.epsilon is {privacy.epsilon:g}",
            "use noise_multiplier: auto, fewer rounds or steps, or a lower sampling_rate",
        )
    return privacy.noise_multiplier


def resolve_score_multiplier(policy: Policy) -> float:
    """Noise of each release of scores over the most that one patient changes; 0.0 where none is released.

    From `evaluation.epsilon` it is the smallest multiple of 1/1024 that keeps all releases of the run within it.

    Raises:
        PolicyError: EPSILON_UNREACHABLE.
    """
    privacy, scored = policy.privacy, policy.evaluation
    if not isinstance(privacy, PatientPrivacy) or not scored.is_noised:
        return 0.0
    if scored.noise_multiplier is not None:
        return scored.noise_multiplier
    releases = policy.releases_before(policy.rounds_in_all)
    tasks = len(policy.contract.tasks)
    return _smallest_for_scores(scored.epsilon or 0.0, privacy.delta, privacy.adjacency, releases, tasks)


def training_event(policy: Policy, noise_multiplier: float, dimension: int) -> Event:
    """What one hospital's training releases in one round; under `distributed` against the coalition counted with.

    Args:
        policy: a loaded policy.
        noise_multiplier: as resolved for the run.
        dimension: d.
    """
    privacy = policy.privacy
    if not isinstance(privacy, PatientPrivacy):
        return NonPrivate()
    noise = shares(privacy.clip_norm, noise_multiplier, makers_of(policy).counted, dimension)
    return SelfComposed(noise.step_event(privacy.sampling_rate), privacy.steps_per_round)


def one_release(policy: Policy) -> Event:
    """What one noised release of scores costs a test patient; nothing where none is released."""
    multiplier = resolve_score_multiplier(policy)
    return score_event(multiplier, len(policy.contract.tasks)) if multiplier else NOTHING


def round_event(policy: Policy, noise_multiplier: float, dimension: int, round_number: int = 0) -> Event:
    """What one hospital releases in one round: its training, its scores, or both.

    Both are composed although a patient who is tested does not train in the same run: which side a patient is on may
    change between runs (a `split` column, a merged population), and the ledger counts over all of them.

    Args:
        round_number: counted from 0, of `policy.rounds_in_all`.
    """
    if not isinstance(policy.privacy, PatientPrivacy):
        return NonPrivate()
    scores = one_release(policy) if policy.releases_scores(round_number) else NOTHING
    if policy.is_closing(round_number):
        return scores
    training = training_event(policy, noise_multiplier, dimension)
    return training if scores == NOTHING else Composed((training, scores))


def run_event(policy: Policy, noise_multiplier: float, dimension: int, done: int, first: int = 0) -> Event:
    """What one hospital releases in the rounds from `first` up to, without it, `done` of `policy.rounds_in_all`."""
    training = training_event(policy, noise_multiplier, dimension)
    trained = SelfComposed(training, min(done, policy.rounds) - min(first, policy.rounds))
    scored = policy.releases_before(done) - policy.releases_before(first)
    return trained if not scored else Composed((trained, SelfComposed(one_release(policy), scored)))


def _all_scores(policy: Policy) -> Event:
    released = policy.releases_before(policy.rounds_in_all)
    return SelfComposed(one_release(policy), released) if released else NOTHING


def _require_room(asked: _Asked) -> None:
    if asked.scores == NOTHING:
        return
    costs = epsilon(asked.scores, asked.delta, asked.adjacency)
    if costs >= asked.epsilon:
        raise PolicyError(
            "EPSILON_EXCEEDED",
            f"the released scores alone cost epsilon {costs:.3f}, privacy.epsilon is {asked.epsilon:g}",
            "raise evaluation.noise_multiplier, or release final scores only",
        )


@lru_cache(maxsize=64)
def _smallest(asked: _Asked, dimension: int) -> float:
    multiplier = (
        calibrate_sampled_gaussian(asked.epsilon, asked.delta, asked.sampling_rate, asked.steps, asked.adjacency)
        if asked.scores == NOTHING
        else calibrate(lambda noise: _beside_scores(asked, noise), asked.epsilon, asked.delta, asked.adjacency)
    )
    while _cost(asked, multiplier, dimension) > asked.epsilon:  # the integers' own share: one step, rarely two
        multiplier += 1 / GRID_PER_UNIT
    return multiplier


def _beside_scores(asked: _Asked, multiplier: float) -> Event:
    step = PoissonSampled(asked.sampling_rate, Gaussian(multiplier))
    return Composed((SelfComposed(step, asked.steps), asked.scores))


@lru_cache(maxsize=64)
def _smallest_for_scores(target: float, delta: float, adjacency: Adjacency, releases: int, tasks: int) -> float:
    return calibrate(lambda noise: SelfComposed(score_event(noise, tasks), releases), target, delta, adjacency)


@lru_cache(maxsize=256)
def _cost(asked: _Asked, multiplier: float, dimension: int) -> float:
    noise = shares(asked.clip_norm, multiplier, asked.makers, dimension)
    event = SelfComposed(noise.step_event(asked.sampling_rate), asked.steps)
    return epsilon(event if asked.scores == NOTHING else Composed((event, asked.scores)), asked.delta, asked.adjacency)
