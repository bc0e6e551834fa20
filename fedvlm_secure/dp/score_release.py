"""A noised release of scores: how right each test patient's answers were, bounded per patient, summed, noised once.

Per kind of question (task) a patient gives (right, wrong): the share of its questions answered rightly, and the rest,
in steps of 1/1024 of a patient. The two add up to one whole patient, so the pair's L2 norm is at most 1 (the pair
(mean right, 1) would have sqrt(2), and a noisier share), over k tasks together at most sqrt(k): one event for all.
"""

from __future__ import annotations

from fedvlm_secure.dp.events import Event
from fedvlm_secure.dp.shared_noise import SharedNoise, shared_noise

STEPS_PER_PATIENT = 1024
"""Grid of the counts: one patient is so many steps. Whole steps need no rounding allowance."""

_NUMBERS_PER_TASK = 2
_ONE_MAKER = 1


def score_pair(correct: int, asked: int) -> tuple[int, int]:
    """One patient's (right, wrong) in one task, in steps; (0, 0) where nothing was asked.

    Args:
        correct, asked: questions of this patient, 0 <= correct <= asked.

    Returns:
        Two non-negative integers that add up to `STEPS_PER_PATIENT` (or to 0), so right^2 + wrong^2 is at most its
        square.

    Raises:
        ValueError: counts outside their bounds.
    """
    if not 0 <= correct <= asked:
        raise ValueError("a patient's right answers lie between 0 and the questions asked")
    if asked == 0:
        return 0, 0
    right = (2 * STEPS_PER_PATIENT * correct + asked) // (2 * asked)
    return right, STEPS_PER_PATIENT - right


def bound_squared(tasks: int) -> int:
    """Squared L2 norm that no patient's vector over all tasks exceeds, in steps squared."""
    return tasks * STEPS_PER_PATIENT**2


def score_noise(noise_multiplier: float, tasks: int) -> SharedNoise:
    """Noise of one hospital's release, all of it made there: nobody else's is counted on.

    Args:
        noise_multiplier: standard deviation over the L2 bound of one patient, > 0.
        tasks: kinds of questions scored, >= 1.

    Raises:
        PolicyError: NOISE_TOO_WIDE, NOISE_TOO_FINE.
    """
    return shared_noise(noise_multiplier, bound_squared(tasks), _ONE_MAKER, _NUMBERS_PER_TASK * tasks)


def score_event(noise_multiplier: float, tasks: int) -> Event:
    """What one release costs a test patient: every one of them is in it, so no sampling helps."""
    return score_noise(noise_multiplier, tasks).step_event(sampling_rate=1.0)
