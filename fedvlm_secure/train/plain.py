"""Plain local training: AdamW on what the round trains, a fresh optimizer each round, no privacy mechanism."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.batches import answer_loss, batch_orders, make_batch, pairs_of, shift_pictures
from fedvlm_secure.train.proximal import ProximalTerm
from fedvlm_secure.train.settings import LocalSettings, LocalUpdate, Stage
from fedvlm_secure.types import Float32Vector
from fedvlm_secure.vlm.adapters import TunedModel, refuse_non_finite
from fedvlm_secure.vlm.data.rows import Pictures, Row
from fedvlm_secure.vlm.tasks.patches import picture_argument
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

if TYPE_CHECKING:
    import torch


def train_plain(
    tuned: TunedModel,
    codec: PromptCodec,
    rows: Sequence[Row],
    pictures: Pictures,
    settings: LocalSettings,
    *,
    round_number: int,
    difference: Float32Vector,
    rng: np.random.Generator,
) -> LocalUpdate:
    """Train one round from the global state.

    Args:
        tuned: any state; it is put at `difference` first and left after the last step.
        codec: how a row becomes inputs.
        rows: training rows, not empty.
        pictures: uint8 [n, side, side, 3] that the rows point into.
        settings: optimizer, length, FedProx's mu, and which rounds train what.
        round_number: 1..rounds.
        difference: float32 [d], the certified global state.
        rng: batch order and augmentation of this round.

    Returns:
        The update and the loss seen on the way (the task's, without the proximal term). Coordinates that the round
        does not train are exactly zero in it.

    Raises:
        ModelError: NON_FINITE_UPDATE with the tensor's name, ZERO_UPDATE, or NON_FINITE_STATE.
        ValueError: no rows.
    """
    import torch

    if not rows:
        raise ValueError("training needs rows")
    tuned.load_difference(difference)
    stage = settings.stage_at(round_number)
    rate = settings.learning_rate_at(round_number)
    argument = picture_argument(tuned.model)
    pairs = pairs_of(rows)
    index = np.array([row.picture for row in rows])
    loss_sum, loss_count = 0.0, 0
    with _only(tuned, stage) as training:
        optimizer = torch.optim.AdamW(training, lr=rate, weight_decay=settings.weight_decay, foreach=True)
        proximal = ProximalTerm(training, settings.proximal_mu)
        for order in batch_orders(len(rows), settings, rng):
            seen = pictures[index[order]]
            if settings.augment == "shift":
                seen = shift_pictures(seen, settings.max_shift, rng)
            batch = make_batch(codec, [pairs[number] for number in order], seen)
            loss = answer_loss(tuned.model, batch, codec.pixels(seen), argument)
            optimizer.zero_grad(set_to_none=True)
            (loss / len(batch.target)).backward()  # type: ignore[no-untyped-call]
            proximal.add_gradient()
            optimizer.step()
            loss_sum += float(loss.detach())
            loss_count += len(batch.target)
    return LocalUpdate(_checked_update(tuned, difference, stage), len(rows), loss_sum, loss_count)


def trains(tensor: str, stage: Stage | None) -> bool:
    """Whether a stage trains the tensor of this canonical name; None trains all."""
    return stage is None or ((".lora_A." in tensor or ".lora_B." in tensor) == (stage == "lora"))


@contextmanager
def _only(tuned: TunedModel, stage: Stage | None) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters of a stage, in training mode; the others take no gradient meanwhile."""
    parts = list(zip(tuned.layout.slots, tuned.trainable, strict=True))
    training = [parameter for slot, parameter in parts if trains(slot.name, stage)]
    resting = [parameter for slot, parameter in parts if not trains(slot.name, stage)]
    for parameter in resting:
        parameter.requires_grad_(False)
    tuned.model.train()
    try:
        yield training
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)
        tuned.model.eval()


def _checked_update(tuned: TunedModel, difference: Float32Vector, stage: Stage | None) -> Float32Vector:
    """What training has moved, float32 [d]; refused where it must not be sent.

    A zero update is not harmless: adapters that were cut off from their optimizer would train for ever in appearance.
    """
    update = (tuned.read_difference() - difference).astype(np.float32)
    for slot, span in tuned.layout.spans():
        if not trains(slot.name, stage):
            update[span] = 0.0  # reading start + difference back rounds in its last bit, and nothing may move here
    refuse_non_finite(tuned.layout, update, code="NON_FINITE_UPDATE", what="the update")
    if not update.any():
        raise ModelError(
            "ZERO_UPDATE",
            f"the update is zero in all {tuned.layout.dimension} coordinates after training",
            "the trainable tensors did not move: check learning rate, strategy and device",
        )
    return update
