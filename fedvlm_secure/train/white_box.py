"""The white-box audit: can the noised step of training tell whether one patient was there? Ten thousand tries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedvlm_secure.dp.empirical import lower_mu
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.train.private import NoisySteps
from fedvlm_secure.train.private_gradients import RowGradients, RowLoss, RowMatrix
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.types import Entropy, Float64Vector
from fedvlm_secure.vlm.adapters import TunedModel
from fedvlm_secure.vlm.data.rows import Row

SMALLEST_TRIALS = 100
PILOT_SHARE = 10
"""One trial in ten sets the threshold and is not judged."""

LOUDNESS = 8.0
"""Norm of the canary's gradient before the clip, in clip norms: without the clip it would stand out."""

_MOST_ROWS = 6
_CANARY = "canary"


@dataclass(frozen=True)
class WhiteBoxResult:
    """What the trials show.

    Attributes:
        claimed_mu: what the accounted event says of one step whose patient is drawn.
        shown_mu: the mechanism's mu is at least this, at `confidence`.
        largest_mu: what so many trials could show at most.
        right, judged: guesses; `trials` holds those of the pilot, too.
        dimension: d.
    """

    claimed_mu: float
    shown_mu: float
    largest_mu: float
    confidence: float
    trials: int
    judged: int
    right: int
    dimension: int

    @property
    def refuted(self) -> bool:
        """The mechanism gives away more than is accounted for; a sound one ends so with chance 1 - confidence."""
        return self.shown_mu > self.claimed_mu


def audit_step(
    others: RowMatrix,
    settings: PrivateSettings,
    claimed_multiplier: float,
    *,
    trials: int,
    confidence: float,
    entropy: Entropy,
    progress: Callable[[int], None] = lambda done: None,
) -> WhiteBoxResult:
    """Take one noisy step `trials` times, with and without a canary patient, and guess each time which it was.

    Each step is `NoisySteps.take`, which training calls: drawing (every patient is drawn here, so that nothing is
    gained by sampling), the cap on rows, per-row gradients through Opacus, the clip, integer rounding, discrete
    Gaussian noise and the divisor. Only the model is another: a linear layer whose gradients are given.
    The canary's gradient is `LOUDNESS` clip norms long, along random signs over all coordinates; the statistic is the
    noised step's part along them, the threshold half way between the two worlds' means in a pilot.

    Args:
        others: float32 [patients, d], gradients of the patients who are there in both worlds, one row each.
        settings: the policy's mechanism.
        claimed_multiplier: of the Gaussian event that a step is charged as.
        trials: at least 100.
        confidence: one-sided, in (0, 1).
        entropy: of worlds, canary, rounding and noise.
        progress: called with the number of trials done, now and then.

    Raises:
        ValueError: out of range, or no other patient.

    Source: Nasr et al. 2023, arXiv 2302.07956 (white-box, gradient canary); docs/decisions/0107-empirical-audit.md.
    """
    if others.ndim != 2 or not len(others) or trials < SMALLEST_TRIALS:
        raise ValueError(f"at least one other patient and {SMALLEST_TRIALS} trials")
    dimension = others.shape[1]
    signs = np.unpackbits(np.frombuffer(entropy.bytes(-(-dimension // 8)), np.uint8))[:dimension] * 2.0 - 1.0
    direction: Float64Vector = signs / np.sqrt(dimension)
    loss = given_gradients(np.vstack([others, (LOUDNESS * settings.clip_norm * direction).astype(np.float32)]))
    drawn_always = replace(settings, sampling_rate=1.0, connector_rounds=None)
    apart = [_row(number, f"other {number}") for number in range(len(others))]
    canary = [_row(len(others), _CANARY)] * min(settings.patient_cap + 1, _MOST_ROWS)
    worlds = [NoisySteps(rows, drawn_always, loss.tuned.layout, None) for rows in (apart, [*apart, *canary])]
    taken = np.empty(trials, dtype=np.int64)
    statistics = np.empty(trials)
    with RowGradients(loss) as gradients:
        for number in range(trials):
            taken[number] = entropy.bytes(1)[0] & 1
            statistics[number] = direction @ worlds[taken[number]].take(gradients, entropy).gradient
            if number % PILOT_SHARE == 0:
                progress(number)
    pilot = max(1, trials // PILOT_SHARE)
    right, judged = _guess(statistics, taken, pilot)
    return WhiteBoxResult(
        claimed_mu=1.0 / claimed_multiplier,
        shown_mu=lower_mu(right, judged, confidence),
        largest_mu=lower_mu(judged, judged, confidence),
        confidence=confidence,
        trials=trials,
        judged=judged,
        right=right,
        dimension=dimension,
    )


def _guess(statistics: Float64Vector, taken: np.ndarray[Any, np.dtype[np.int64]], pilot: int) -> tuple[int, int]:
    """Right and all guesses after the pilot; a pilot that saw one world only guesses that one always."""
    seen = [statistics[:pilot][taken[:pilot] == world] for world in (0, 1)]
    if not all(len(one) for one in seen):
        return int(np.sum(taken[pilot:] == taken[0])), len(taken) - pilot
    without, present = (float(one.mean()) for one in seen)
    above = statistics[pilot:] > (without + present) / 2
    return int(np.sum((above == (present > without)) == taken[pilot:])), len(taken) - pilot


def _row(number: int, patient: str) -> Row:
    return Row("", "-", "vqa", patient, number, "empirical audit")


def given_gradients(gradients: RowMatrix) -> RowLoss:
    """A loss whose gradient at a row is `gradients[row.picture]`, float32 [n, d]: a linear layer over given inputs."""
    return _GivenLoss(gradients)


class _GivenModel(TunedModel):
    """d weights of one linear layer; no base."""

    def __init__(self, dimension: int) -> None:
        import torch

        layer = torch.nn.Linear(dimension, 1, bias=False)
        self._given = torch.nn.Sequential(layer)
        self._trainable = [layer.weight]
        self.layout = UpdateLayout((TensorSlot("given", (1, dimension)),))

    @property
    def model(self) -> Any:
        return self._given


class _GivenLoss(RowLoss):
    def __init__(self, gradients: RowMatrix) -> None:
        import torch

        self.tuned = _GivenModel(gradients.shape[1])
        self._inputs = torch.from_numpy(gradients)

    def __call__(self, rows: Any) -> Any:
        return self.tuned.model(self._inputs[[row.picture for row in rows]]).sum()
