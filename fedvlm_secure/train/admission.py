"""Which models may train under `dp_sgd`: those whose per-row gradients equal those of a loop over single rows.

A family is admitted by this test on the model at hand and by nothing else. It needs no patient: questions, answers and
pictures are made up from the contract.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.private_gradients import RowGradients, RowLoss, RowMatrix
from fedvlm_secure.vlm.adapters import TunedModel
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.data.rows import Pictures, Row
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

LARGEST_ERROR = 1e-3
_ROWS = 5
_AWAY_FROM_START = 0.01


def admit(tuned: TunedModel, codec: PromptCodec, contract: Contract) -> float:
    """Refuse a model whose rows cannot be told apart.

    Args:
        tuned: any state; it is left at another.
        codec, contract: how a row becomes inputs.

    Returns:
        The largest relative L2 error of a row's gradient, hooks against a loop over single rows; about 1e-6.

    Raises:
        ModelError: DP_FAMILY_REFUSED, DP_LAYER_REFUSED, DP_ROWS_MIXED or DP_STALE_PARAMETERS, with the reason.
    """
    family = str(tuned.model.config.model_type)
    _refuse_batch_statistics(tuned, family)
    rows, pictures = _made_up(contract)
    loss = RowLoss(tuned, codec, pictures)
    # Away from the start: there LoRA B is zero, and with it every gradient of A.
    signs = np.where(np.arange(tuned.layout.dimension) % 2, _AWAY_FROM_START, -_AWAY_FROM_START)
    tuned.load_difference(signs.astype(np.float32))
    with RowGradients(loss) as gradients:
        together = gradients.of(rows)
    alone = _one_by_one(loss, rows)
    error = _relative_error(together, alone)
    if not error <= LARGEST_ERROR:
        raise ModelError(
            "DP_FAMILY_REFUSED",
            f"{family}: a row's gradient in a batch differs from the one it has alone by {error:.1e} of its norm "
            f"(at most {LARGEST_ERROR:g})",
            "rows influence each other, or chance enters the loss (dropout): use another base, or mechanism none",
        )
    return error


def _refuse_batch_statistics(tuned: TunedModel, family: str) -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, module in tuned.model.named_modules():
        if isinstance(module, _BatchNorm):
            raise ModelError(
                "DP_FAMILY_REFUSED",
                f"{family}: {name} is a batch normalisation, which mixes the patients of a batch",
                "use a base without batch normalisation, or privacy.mechanism none",
            )


def _made_up(contract: Contract) -> tuple[list[Row], Pictures]:
    """Rows of different lengths about pictures of a fixed pattern."""
    side = contract.image_size
    ramp = np.arange(_ROWS * side * side * 3, dtype=np.int64)
    pictures = ((ramp * ramp // 7 + ramp) % 251).astype(np.uint8).reshape(_ROWS, side, side, 3)
    answers = [contract.vocabulary[number % len(contract.vocabulary)] for number in range(_ROWS)]
    rows = [
        Row("Is it so?" + " Is it?" * number, answer, "vqa", f"made-up-{number}", number, "admission test")
        for number, answer in enumerate(answers)
    ]
    return rows, pictures


def _one_by_one(loss: RowLoss, rows: Sequence[Row]) -> RowMatrix:
    """The same gradients by plain autograd, one row at a time: float32 [rows, d]."""
    import torch

    tuned = loss.tuned
    matrix: RowMatrix = np.empty((len(rows), tuned.layout.dimension), dtype=np.float32)
    tuned.model.train()
    try:
        for number, row in enumerate(rows):
            found = torch.autograd.grad(loss([row]), tuned.trainable)
            matrix[number] = np.concatenate([gradient.to("cpu").numpy().reshape(-1) for gradient in found])
    finally:
        tuned.model.eval()
    return matrix


def _relative_error(found: RowMatrix, wanted: RowMatrix) -> float:
    """Largest over rows; infinite where a gradient is zero or not finite, since then nothing was tested."""
    norms = np.linalg.norm(wanted.astype(np.float64), axis=1)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        return float("inf")
    return float(np.max(np.linalg.norm(found.astype(np.float64) - wanted, axis=1) / norms))
