"""Batches of tokenised questions, padded on the right, with the positions that predict answer tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.train.settings import LocalSettings
from fedvlm_secure.vlm.data.rows import Pictures, Row
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one step, on the CPU.

    Args:
        ids: int64 [b, s], right-padded with the end mark; causal attention never looks there.
        line, position: int64 [a], where the hidden state predicts an answer token.
        target: int64 [a], that token.
        pictures: uint8 [b, side, side, 3].
    """

    ids: torch.Tensor
    line: torch.Tensor
    position: torch.Tensor
    target: torch.Tensor
    pictures: Pictures


def make_batch(codec: PromptCodec, pairs: Sequence[tuple[str, str]], pictures: Pictures) -> Batch:
    """Tokenise b (question, answer) pairs about b pictures."""
    import torch

    prompts = [codec.prompt_ids(question) for question, _ in pairs]
    answers = [codec.answer_ids(answer) for _, answer in pairs]
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) - 1
    ids = np.full((len(pairs), longest), codec.end, dtype=np.int64)
    line: list[int] = []
    position: list[int] = []
    target: list[int] = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole = (*prompt, *answer)[:-1]  # the end mark is predicted, never read
        ids[number, : len(whole)] = whole
        line += [number] * len(answer)
        position += range(len(prompt) - 1, len(prompt) - 1 + len(answer))
        target += answer
    return Batch(
        ids=torch.from_numpy(ids),
        line=torch.tensor(line),
        position=torch.tensor(position),
        target=torch.tensor(target),
        pictures=pictures,
    )


def answer_loss(model: Any, batch: Batch, patches: torch.Tensor, picture_argument: str) -> torch.Tensor:
    """Summed cross entropy of the answer tokens; the head runs at their positions only, which saves a sixth.

    Args:
        batch, patches: on the CPU; they are copied to where the model is.

    Returns:
        A scalar tensor in nats, on the model's device.
    """
    from torch.nn import functional

    device = model.device
    line, position, target = (part.to(device) for part in (batch.line, batch.position, batch.target))
    body = getattr(model, model.base_model_prefix)
    hidden = body(input_ids=batch.ids.to(device), use_cache=False, **{picture_argument: patches.to(device)})[0]
    logits = model.get_output_embeddings()(hidden[line, position])
    return functional.cross_entropy(logits.float(), target, reduction="sum")


def batch_orders(rows: int, settings: LocalSettings, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each step of a round: permutation after permutation, cut into batches.

    Under `epochs` the last batch of a pass is short; under `steps` every batch is full where the rows allow.
    """
    wanted = settings.steps_for(rows)
    if settings.epochs is not None:
        for _ in range(settings.epochs):
            order = rng.permutation(rows)
            for first in range(0, rows, settings.batch_size):
                yield order[first : first + settings.batch_size]
        return
    queue = np.empty(0, dtype=np.int64)
    for _ in range(wanted):
        while len(queue) < settings.batch_size:
            queue = np.concatenate([queue, rng.permutation(rows)])
        yield queue[: settings.batch_size]
        queue = queue[settings.batch_size :]


def shift_pictures(pictures: Pictures, most: int, rng: np.random.Generator) -> Pictures:
    """Move each picture by up to `most` pixels each way; the border repeats.

    Args:
        pictures: uint8 [b, side, side, 3].
    """
    side = pictures.shape[1]
    padded = np.pad(pictures, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    offsets = rng.integers(0, 2 * most + 1, (len(pictures), 2))
    across = np.arange(side)
    lines = offsets[:, 0, None] + across
    columns = offsets[:, 1, None] + across
    moved: Pictures = padded[np.arange(len(pictures))[:, None, None], lines[:, :, None], columns[:, None, :]]
    return moved


def pairs_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Question and answer of each row."""
    return [(row.question, row.answer) for row in rows]
