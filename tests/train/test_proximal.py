"""FedProx's term: the gradient of mu/2 times the squared distance, in closed form and inside a round."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedvlm_secure.train.batches import answer_loss, batch_orders, make_batch, pairs_of
from fedvlm_secure.train.plain import train_plain
from fedvlm_secure.train.proximal import ProximalTerm
from fedvlm_secure.train.settings import LocalSettings
from fedvlm_secure.types import Float32Vector
from fedvlm_secure.vlm.adapters import LoraSettings, TunedModel
from fedvlm_secure.vlm.base import load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.tasks.patches import picture_argument, picture_patches
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

CONTRACT = derive_contract(contract_rows())
DATA = draw_hospital(SITES["coast"], patients=20, image_size=32, name="coast", rng=np.random.default_rng(3))
ROWS = tuple(row for row in DATA.rows if row.task in ("vqa", "classification"))


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def test_gradient_is_mu_times_the_distance_from_where_the_round_started() -> None:
    weight = parameter(1.0, -2.0)
    term = ProximalTerm([weight], 0.5)
    with torch.no_grad():
        weight.add_(torch.tensor([3.0, -1.0]))
    weight.grad = torch.tensor([10.0, 20.0], dtype=torch.float64)
    term.add_gradient()
    assert weight.grad.tolist() == [10.0 + 0.5 * 3.0, 20.0 - 0.5 * 1.0]


def test_a_quadratic_ends_where_the_closed_form_says() -> None:
    """min 1/2 ||w - c||^2 + mu/2 ||w - g||^2 lies at (c + mu g) / (1 + mu)."""
    mu, centre, start = 0.25, torch.tensor([4.0, -1.0], dtype=torch.float64), (1.0, 1.0)
    weight = parameter(*start)
    term, optimizer = ProximalTerm([weight], mu), torch.optim.SGD([weight], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * ((weight - centre) ** 2).sum()).backward()  # type: ignore[no-untyped-call]
        term.add_gradient()
        optimizer.step()
    expected = (centre + mu * torch.tensor(start)) / (1 + mu)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-12)


def test_mu_zero_and_a_parameter_without_gradient_are_left_alone() -> None:
    weight, unused = parameter(1.0), parameter(2.0)
    weight.grad = torch.tensor([5.0], dtype=torch.float64)
    ProximalTerm([weight], 0.0).add_gradient()
    ProximalTerm([weight, unused], 1.0).add_gradient()
    assert weight.grad.tolist() == [5.0]
    assert unused.grad is None


@pytest.fixture(scope="module")
def tuned() -> TunedModel:
    base = load_base(shipped_base("tiny-fuyu"))
    return TunedModel(base, strategy="connector+lora", lora=LoraSettings(), seed=1)


def settings(**changes: Any) -> LocalSettings:
    return LocalSettings(**{"learning_rate": 3e-3, "batch_size": 16, "steps": 4, **changes})


def round_from(tuned: TunedModel, state: Float32Vector, **changes: Any) -> Float32Vector:
    codec, rng = PromptCodec(tuned.base, CONTRACT), np.random.default_rng(9)
    return train_plain(
        tuned, codec, ROWS, DATA.pictures, settings(**changes), round_number=1, difference=state, rng=rng
    ).update


def start(tuned: TunedModel) -> Float32Vector:
    return np.random.default_rng(4).normal(0, 1e-3, tuned.layout.dimension).astype(np.float32)


def test_a_round_minimises_the_objective_written_out(tuned: TunedModel) -> None:
    """The same batches, with the term in the loss and differentiated by PyTorch."""
    mu, state = 20.0, start(tuned)
    ours = round_from(tuned, state, proximal_mu=mu)
    tuned.load_difference(state)
    parameters = tuned.trainable
    anchors = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
    codec, pairs = PromptCodec(tuned.base, CONTRACT), pairs_of(ROWS)
    for order in batch_orders(len(ROWS), settings(), np.random.default_rng(9)):
        seen = DATA.pictures[[ROWS[number].picture for number in order]]
        batch = make_batch(codec, [pairs[number] for number in order], seen)
        patches = picture_patches(seen, patch=16, normalisation=CONTRACT.normalisation)
        loss = answer_loss(tuned.model, batch, patches, picture_argument(tuned.model)) / len(batch.target)
        distance = sum(((p - a) ** 2).sum() for p, a in zip(parameters, anchors, strict=True))
        optimizer.zero_grad()
        (loss + mu / 2 * distance).backward()
        optimizer.step()
    written_out = tuned.read_difference() - state
    assert np.abs(ours).max() > 1e-3
    # AdamW divides by |g|: a gradient near zero may turn its sign by rounding, so a few coordinates may differ
    assert np.mean(np.abs(ours - written_out) > 2e-5) < 1e-3


def test_a_large_mu_holds_the_model_nearer(tuned: TunedModel) -> None:
    state = start(tuned)
    free, held = (np.linalg.norm(round_from(tuned, state, proximal_mu=mu, steps=8)) for mu in (0.0, 1000.0))
    assert held < 0.6 * free


@pytest.mark.parametrize("mu", [-0.1, float("inf"), float("nan")])
def test_a_mu_that_is_no_weight_is_refused(mu: float) -> None:
    with pytest.raises(ValueError, match="proximal_mu"):
        settings(proximal_mu=mu)
