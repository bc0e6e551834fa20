"""Plain local training: AdamW on the trainable tensors, a fresh optimizer each round, no privacy mechanism."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.batches import answer_loss, batch_orders, make_batch, pairs_of, shift_pictures
from fedvlm_secure.train.settings import LocalSettings, LocalUpdate
from fedvlm_secure.types import Float32Vector
from fedvlm_secure.vlm.adapters import TunedModel, refuse_non_finite
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.data.rows import Pictures, Row
from fedvlm_secure.vlm.tasks.patches import picture_argument, picture_patches
from fedvlm_secure.vlm.tasks.prompts import PromptCodec


def train_plain(
    tuned: TunedModel,
    codec: PromptCodec,
    contract: Contract,
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
        codec, contract: how a row becomes inputs.
        rows: training rows, not empty.
        pictures: uint8 [n, side, side, 3] that the rows point into.
        settings: optimizer and length.
        round_number: 1..rounds.
        difference: float32 [d], the certified global state.
        rng: batch order and augmentation of this round.

    Returns:
        The update and the loss seen on the way.

    Raises:
        ModelError: NON_FINITE_UPDATE with the tensor's name, ZERO_UPDATE, or NON_FINITE_STATE.
        ValueError: no rows.
    """
    import torch

    if not rows:
        raise ValueError("training needs rows")
    tuned.load_difference(difference)
    rate = settings.learning_rate_at(round_number)
    optimizer = torch.optim.AdamW(tuned.trainable, lr=rate, weight_decay=settings.weight_decay, foreach=True)
    patch, argument = tuned.model.config.patch_size, picture_argument(tuned.model)
    pairs = pairs_of(rows)
    index = np.array([row.picture for row in rows])
    loss_sum, loss_count = 0.0, 0
    tuned.model.train()
    try:
        for order in batch_orders(len(rows), settings, rng):
            seen = pictures[index[order]]
            if settings.augment == "shift":
                seen = shift_pictures(seen, settings.max_shift, rng)
            batch = make_batch(codec, [pairs[number] for number in order], seen)
            patches = picture_patches(seen, patch=patch, normalisation=contract.normalisation)
            loss = answer_loss(tuned.model, batch, patches, argument)
            optimizer.zero_grad(set_to_none=True)
            (loss / len(batch.target)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += float(loss.detach())
            loss_count += len(batch.target)
    finally:
        tuned.model.eval()
    return LocalUpdate(_checked_update(tuned, difference), len(rows), loss_sum, loss_count)


def _checked_update(tuned: TunedModel, difference: Float32Vector) -> Float32Vector:
    """What training has moved, float32 [d]; refused where it must not be sent.

    A zero update is not harmless: adapters that were cut off from their optimizer would train for ever in appearance.
    """
    update = (tuned.read_difference() - difference).astype(np.float32)
    refuse_non_finite(tuned.layout, update, code="NON_FINITE_UPDATE", what="the update")
    if not update.any():
        raise ModelError(
            "ZERO_UPDATE",
            f"the update is zero in all {tuned.layout.dimension} coordinates after training",
            "the trainable tensors did not move: check learning rate, strategy and device",
        )
    return update
