"""The black-box audit: made-up patients in one training run, each in by a coin; the tuned model is asked who was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.dp.accounting import epsilon
from fedvlm_secure.dp.empirical import one_run_epsilon
from fedvlm_secure.dp.events import SelfComposed
from fedvlm_secure.train.private import train_private
from fedvlm_secure.train.private_gradients import RowLoss
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.types import Entropy, Float64Vector
from fedvlm_secure.vlm.adapters import TunedModel
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.data.rows import HospitalData, Row
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

SMALLEST_CANARIES = 12
_GUESSED_SHARE = 3
"""The third that the model knows best is guessed in, the third that it knows least out, the rest is left open."""

_LETTERS = 12


@dataclass(frozen=True)
class CanaryResult:
    """What one run shows.

    Attributes:
        claimed_epsilon: of the accountant, for the whole run at `delta`, one patient added or removed.
        shown_epsilon: the run's epsilon is at least this, at `confidence`.
        largest_epsilon: what so many guesses, all of them right, could show.
        right, guesses, canaries: counts.
    """

    claimed_epsilon: float
    shown_epsilon: float
    largest_epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    right: int

    @property
    def refuted(self) -> bool:
        """More leaks than is accounted for; a sound run ends so with chance 1 - confidence at most."""
        return self.shown_epsilon > self.claimed_epsilon


def audit_run(
    tuned: TunedModel,
    codec: PromptCodec,
    contract: Contract,
    data: HospitalData,
    settings: PrivateSettings,
    *,
    canaries: int,
    delta: float,
    confidence: float,
    entropy: Entropy,
    progress: Callable[[int], None] = lambda done: None,
) -> CanaryResult:
    """Train all rounds of a hospital of phantoms and canaries, and guess from the model's losses who took part.

    A canary is one patient with one row: a picture of noise, a question of random letters, a random answer. The score
    is the tuned model's loss at that row, nothing inside the run is looked at; how many are guessed was fixed before.

    Args:
        tuned, codec, contract: the model, at any state.
        data: other patients, at least one; all of their rows train.
        settings: mechanism and optimizer; its rounds are trained one after another.
        canaries: m, at least 12; each takes part with chance 1/2.
        delta: of the claim.
        confidence: one-sided, in (0, 1).
        entropy: of canaries, coins and training.
        progress: called with the number of rounds done.

    Raises:
        ValueError: too few canaries.
        ModelError: as `train_private`.

    Source: Steinke, Nasr, Jagielski 2023, arXiv 2305.08846 (black-box).
    """
    if canaries < SMALLEST_CANARIES:
        raise ValueError(f"at least {SMALLEST_CANARIES} canaries")
    made, pictures = _made_up(canaries, len(data.pictures), contract, entropy)
    inside = _coins(canaries, entropy)
    rows = (*data.rows, *(row for row, is_in in zip(made, inside, strict=True) if is_in))
    loss = RowLoss(tuned, codec, np.concatenate([data.pictures, pictures]))
    state = np.zeros(tuned.layout.dimension, np.float32)
    for number in range(1, settings.rounds + 1):
        done = train_private(loss, rows, settings, round_number=number, difference=state, entropy=entropy)
        state = state + done.update
        progress(number)
    tuned.load_difference(state)
    guesses, right = _guess(_losses(loss, made), inside)
    step = settings.noise(tuned.layout.dimension).step_event(settings.sampling_rate)
    return CanaryResult(
        claimed_epsilon=epsilon(SelfComposed(step, settings.rounds * settings.steps_per_round), delta),
        shown_epsilon=one_run_epsilon(canaries, guesses, right, delta, confidence),
        largest_epsilon=one_run_epsilon(canaries, guesses, guesses, delta, confidence),
        delta=delta,
        confidence=confidence,
        canaries=canaries,
        guesses=guesses,
        right=right,
    )


def _made_up(
    count: int, first_picture: int, contract: Contract, entropy: Entropy
) -> tuple[tuple[Row, ...], NDArray[np.uint8]]:
    """Canaries with pictures that are numbered from `first_picture`."""
    side = contract.image_size
    pictures = np.frombuffer(entropy.bytes(count * side * side * 3), np.uint8).reshape(count, side, side, 3)
    rows = []
    for number in range(count):
        question = "".join(chr(ord("a") + byte % 26) for byte in entropy.bytes(_LETTERS)) + "?"
        answer = contract.vocabulary[int.from_bytes(entropy.bytes(8), "big") % len(contract.vocabulary)]
        rows.append(Row(question, answer, "vqa", f"canary {number}", first_picture + number, "empirical audit"))
    return tuple(rows), pictures


def _coins(count: int, entropy: Entropy) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(entropy.bytes(-(-count // 8)), np.uint8))[:count].astype(np.bool_)


def _losses(loss: RowLoss, rows: Sequence[Row]) -> Float64Vector:
    """Each row's loss by itself, float64 [rows], at the model's present state."""
    import torch

    with torch.no_grad():
        return np.array([float(loss([row])) for row in rows])


def _guess(losses: Float64Vector, inside: NDArray[np.bool_]) -> tuple[int, int]:
    """All guesses and the right ones."""
    by_loss = np.argsort(losses, kind="stable")
    part = len(losses) // _GUESSED_SHARE
    return 2 * part, int(inside[by_loss[:part]].sum()) + int((~inside[by_loss[-part:]]).sum())
