"""What a private run releases, as events: the same at every party, from the policy and the number of trained values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fedvlm_secure.dp.accounting import Adjacency, epsilon
from fedvlm_secure.dp.calibration import GRID_PER_UNIT, calibrate_sampled_gaussian
from fedvlm_secure.dp.events import Event, NonPrivate, SelfComposed
from fedvlm_secure.dp.rounding import IntegerClip, grid_steps_for
from fedvlm_secure.dp.shared_noise import shared_noise
from fedvlm_secure.errors import PolicyError
from fedvlm_secure.policy.privacy import DpSgd
from fedvlm_secure.policy.schema import Policy

_ONE_MAKER = 1  # the hospital itself: nobody else's noise is counted on


@dataclass(frozen=True)
class _Asked:
    """What the multiplier depends on."""

    epsilon: float
    delta: float
    adjacency: Adjacency
    clip_norm: float
    sampling_rate: float
    steps: int


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
    if not isinstance(privacy, DpSgd):
        return 0.0
    asked = _Asked(
        privacy.epsilon,
        privacy.delta,
        privacy.adjacency,
        privacy.clip_norm,
        privacy.sampling_rate,
        policy.rounds * privacy.steps_per_round,
    )
    if privacy.noise_multiplier == "auto":
        return _smallest(asked, dimension)
    costs = _cost(asked, privacy.noise_multiplier, dimension)
    if costs > privacy.epsilon:
        raise PolicyError(
            "EPSILON_EXCEEDED",
            f"privacy.noise_multiplier {privacy.noise_multiplier:g} costs epsilon {costs:.3f} over {policy.rounds} "
            f"rounds, privacy.epsilon is {privacy.epsilon:g}",
            "use noise_multiplier: auto, fewer rounds or steps, or a lower sampling_rate",
        )
    return privacy.noise_multiplier


def round_event(policy: Policy, noise_multiplier: float, dimension: int) -> Event:
    """What one hospital releases in one round.

    Args:
        policy: a loaded policy.
        noise_multiplier: as resolved for the run.
        dimension: d.
    """
    privacy = policy.privacy
    if not isinstance(privacy, DpSgd):
        return NonPrivate()
    return _event(privacy.clip_norm, privacy.sampling_rate, noise_multiplier, dimension, privacy.steps_per_round)


@lru_cache(maxsize=64)
def _smallest(asked: _Asked, dimension: int) -> float:
    multiplier = calibrate_sampled_gaussian(
        asked.epsilon, asked.delta, asked.sampling_rate, asked.steps, asked.adjacency
    )
    while _cost(asked, multiplier, dimension) > asked.epsilon:  # the integers' own share: one step, rarely two
        multiplier += 1 / GRID_PER_UNIT
    return multiplier


@lru_cache(maxsize=256)
def _cost(asked: _Asked, multiplier: float, dimension: int) -> float:
    event = _event(asked.clip_norm, asked.sampling_rate, multiplier, dimension, asked.steps)
    return epsilon(event, asked.delta, asked.adjacency)


@lru_cache(maxsize=256)
def _event(clip_norm: float, sampling_rate: float, multiplier: float, dimension: int, steps: int) -> Event:
    clip = IntegerClip(clip_norm, grid_steps_for(dimension), dimension)
    noise = shared_noise(multiplier, clip.squared, _ONE_MAKER, dimension)
    return SelfComposed(noise.step_event(sampling_rate), steps)
