"""Per-row gradients are those of single rows, also for a layer that is used twice and however they are handed out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedvlm_secure.train import private_gradients
from fedvlm_secure.train.private_gradients import RowGradients, in_pieces
from tests.train.private_bench import ROWS, row_loss, tuned_model


class Branches(torch.nn.Module):
    """A layer that is used twice, one that is used once, and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.norm = torch.nn.Linear(4, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.once(self.norm(torch.tanh(self.twice(torch.tanh(self.twice(x))))))
        return found


@pytest.mark.parametrize("shape", [(5, 4), (5, 7, 4)])
def test_a_layer_that_is_used_twice_has_the_gradient_of_both_uses(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    model, rows = Branches(), torch.randn(shape)
    wanted = [torch.autograd.grad((model(row[None]) ** 2).sum(), list(model.parameters())) for row in rows]
    hooks = private_gradients._hooks()(model, loss_reduction="sum", strict=True)
    (model(rows) ** 2).sum().backward()
    for at, (name, parameter) in enumerate(model.named_parameters()):
        alone = torch.stack([found[at] for found in wanted])
        torch.testing.assert_close(parameter.grad_sample, alone, msg=name)
    hooks.remove_hooks()


@pytest.mark.parametrize("piece_rows", [1, 3, 4, 100])
def test_pieces_joined_are_the_whole_and_divide_no_patient(monkeypatch: pytest.MonkeyPatch, piece_rows: int) -> None:
    tuned = tuned_model("connector+lora")
    monkeypatch.setattr(private_gradients, "_PIECE_BYTES", 4 * tuned.layout.dimension * piece_rows)
    counts = (2, 1, 5, 1, 3)
    with RowGradients(row_loss(tuned)) as gradients:
        whole = gradients.of(ROWS[:12])
        found = [(piece.copy(), patients) for piece, patients in gradients.pieces(ROWS[:12], counts)]
    np.testing.assert_array_equal(np.concatenate([piece for piece, _ in found]), whole)
    assert tuple(count for _, patients in found for count in patients) == counts
    assert all(len(piece) == sum(patients) for piece, patients in found)
    assert all(len(piece) <= max(piece_rows, max(patients)) for piece, patients in found)


def test_no_patient_makes_no_piece() -> None:
    assert list(in_pieces((), 4)) == []
    assert list(in_pieces((9, 1, 1), 2)) == [(9,), (1, 1)]
