"""One round of DP-SGD at one hospital: patients are drawn, clipped and rounded one by one; then noise, once per step.

A patient's gradient is the mean over up to `patient_cap` of its rows (a row is one question about one picture), taken
*before* the norm. All its questions as one conversation would be one row; but a base that was trained on single
questions would see earlier answers in later prompts, which neither its pre-training nor the evaluation has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.dp.discrete_gaussian import DiscreteGaussian
from fedvlm_secure.dp.rounding import IntegerClip, add_rounded_rows, decode
from fedvlm_secure.dp.streams import KEY_BYTES
from fedvlm_secure.errors import ModelError
from fedvlm_secure.layout import UpdateLayout
from fedvlm_secure.train.plain import trains
from fedvlm_secure.train.private_gradients import RowGradients, RowLoss, RowMatrix
from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.rows_of_patients import RowsOfPatients, in_chunks
from fedvlm_secure.train.settings import LocalUpdate, Stage
from fedvlm_secure.types import Entropy, Float32Vector, Float64Vector, Int64Vector, Secret
from fedvlm_secure.vlm.adapters import TunedModel, refuse_non_finite
from fedvlm_secure.vlm.data.rows import Row

if TYPE_CHECKING:
    import torch

Coordinates = NDArray[np.bool_]


def train_private(
    loss: RowLoss,
    rows: Sequence[Row],
    settings: PrivateSettings,
    *,
    round_number: int,
    difference: Float32Vector,
    entropy: Entropy,
) -> LocalUpdate:
    """Train one round from the global state.

    Args:
        loss: of some rows; its model is put at `difference` first and left after the last step. The model's family
            has been admitted (`train.admission`).
        rows: training rows, not empty.
        settings: mechanism and optimizer.
        round_number: 1..rounds.
        difference: float32 [d], the certified global state.
        entropy: this hospital's own, for sampling, rounding and noise.

    Returns:
        The update, exactly zero where the round's stage does not train. Rows and loss are 0: nothing that depends on a
        patient leaves without noise.

    Raises:
        ModelError: NON_FINITE_GRADIENT, NON_FINITE_UPDATE, NON_FINITE_STATE, ZERO_UPDATE, NO_GRADIENT, DP_ROWS_MIXED,
            DP_LAYER_REFUSED or DP_STALE_PARAMETERS.
        ValueError: no rows.

    Source: Abadi et al. 2016, algorithm 1, with the divisor of expectation; Kairouz, Liu, Steinke 2021, algorithm 1,
    for the integers.
    """
    import torch

    tuned = loss.tuned
    tuned.load_difference(difference)
    steps = NoisySteps(rows, settings, tuned.layout, settings.stage_at(round_number))
    rate = settings.learning_rate_at(round_number)
    optimizer = torch.optim.AdamW(_training(tuned, steps.resting), lr=rate, weight_decay=0.0, foreach=True)
    seen = moved = False
    with RowGradients(loss) as gradients:
        for _ in range(settings.steps_per_round):
            step = steps.take(gradients, entropy)
            seen, moved, gradient = seen or step.drawn, moved or step.moved, step.gradient
            if settings.mu:
                gradient += settings.mu * (tuned.read_difference() - difference).astype(np.float64)
            _put_gradient(tuned, gradient)
            optimizer.step()
    if seen and not moved:
        raise ModelError(
            "NO_GRADIENT",
            "no patient of this round moved any trainable tensor",
            "the trainable tensors are cut off from the loss: check strategy, base and device",
        )
    return LocalUpdate(_checked_update(tuned, difference, steps.resting), rows=0, loss_sum=0.0, loss_count=0)


@dataclass(frozen=True, eq=False)
class NoisyStep:
    """One step's `gradient`, float64 [d], noised; whether anybody was drawn, and moved the sum, stays here."""

    gradient: Float64Vector
    drawn: bool
    moved: bool


class NoisySteps:
    """The steps of one round up to the point where their noised gradients may be seen by everybody.

    Training takes its gradients from here, and so does the empirical audit: what is audited is what trains.

    Args:
        rows: training rows, not empty.
        settings: mechanism.
        layout: names and shapes of the flat vector [d].
        stage: what trains; None is everything.

    Raises:
        ValueError: no rows.
    """

    def __init__(
        self, rows: Sequence[Row], settings: PrivateSettings, layout: UpdateLayout, stage: Stage | None
    ) -> None:
        self.resting = resting_coordinates(layout, stage)
        self._rows, self._settings, self._people = rows, settings, RowsOfPatients(rows)
        self._clip = settings.clip(layout.dimension)
        self._noise = DiscreteGaussian(settings.noise(layout.dimension).share_variance)

    def take(self, gradients: RowGradients, entropy: Entropy) -> NoisyStep:
        """Draw patients, clip and round each, add up, add noise once, divide by the expected number of patients."""
        settings = self._settings
        drawn = self._people.draw(settings.sampling_rate, settings.patient_cap, entropy)
        total = clipped_sum(gradients, self._rows, drawn, settings.microbatch, self._clip, entropy, self.resting)
        moved = bool(total.any())
        self._noise.add_to(total, Secret(entropy.bytes(KEY_BYTES)))
        total[self.resting] = 0  # dropping coordinates of a noised sum is post-processing: accounted for as all of d
        return NoisyStep(decode(total, self._clip, settings.divisor), bool(drawn), moved)


def resting_coordinates(layout: UpdateLayout, stage: Stage | None) -> Coordinates:
    """bool [d]: which coordinates a stage does not train."""
    resting: Coordinates = np.zeros(layout.dimension, dtype=np.bool_)
    for slot, span in layout.spans():
        resting[span] = not trains(slot.name, stage)
    return resting


def _training(tuned: TunedModel, resting: Coordinates) -> list[torch.nn.Parameter]:
    parts = zip(tuned.layout.spans(), tuned.trainable, strict=True)
    return [parameter for (_, span), parameter in parts if not resting[span].any()]


def clipped_sum(
    gradients: RowGradients,
    rows: Sequence[Row],
    drawn: Sequence[Int64Vector],
    microbatch: int,
    clip: IntegerClip,
    entropy: Entropy,
    resting: Coordinates | None = None,
) -> Int64Vector:
    """The sum over one step's patients before noise: one clip over all training tensors, one rounding per patient.

    Args:
        rows: the hospital's training rows.
        drawn: row numbers of each drawn patient; nobody gives zeros.
        microbatch: rows whose gradients are held at a time.
        resting: bool [d], coordinates that count for nothing, zero before the clip and after the rounding.

    Returns:
        int64 [d] in grid steps; adding or removing one patient moves it by at most `clip.norm` in L2.
    """
    total: Int64Vector = np.zeros(clip.dimension, dtype=np.int64)
    for chunk in in_chunks(drawn, microbatch):
        chosen, counts = [rows[number] for number in np.concatenate(chunk)], [len(numbers) for numbers in chunk]
        for matrix, patients in gradients.pieces(chosen, counts):
            if resting is not None:
                matrix[:, resting] = 0.0
            means = patient_means(matrix, patients)
            add_rounded_rows(total, means, clip, Secret(entropy.bytes(KEY_BYTES)))
    return total


def patient_means(matrix: RowMatrix, counts: Sequence[int]) -> RowMatrix:
    """Average each patient's consecutive rows: float32 [rows, d] to [patients, d]."""
    if len(counts) == len(matrix):
        return matrix
    means: RowMatrix = np.empty((len(counts), matrix.shape[1]), dtype=np.float32)
    last = np.cumsum(counts)
    for patient, (end, count) in enumerate(zip(last, counts, strict=True)):
        matrix[end - count : end].mean(axis=0, out=means[patient])
    return means


def _put_gradient(tuned: TunedModel, gradient: Float64Vector) -> None:
    import torch

    flat = torch.from_numpy(gradient.astype(np.float32))
    for (slot, span), parameter in zip(tuned.layout.spans(), tuned.trainable, strict=True):
        parameter.grad = flat[span].reshape(slot.shape).to(parameter.device)


def _checked_update(tuned: TunedModel, difference: Float32Vector, resting: Coordinates) -> Float32Vector:
    """What training has moved, float32 [d]. Noise moves every training tensor; one that stands still was cut off."""
    update = (tuned.read_difference() - difference).astype(np.float32)
    update[resting] = 0.0  # reading start + difference back rounds in its last bit, and nothing may move here
    refuse_non_finite(tuned.layout, update, code="NON_FINITE_UPDATE", what="the update")
    for slot, span in tuned.layout.spans():
        if not (resting[span].all() or update[span].any()):
            raise ModelError(
                "ZERO_UPDATE",
                f"{slot.name} has not moved, although noise alone would move it",
                "it is cut off from the optimizer: build the tuned model after the base was moved to its device",
            )
    return update
