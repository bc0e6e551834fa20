"""Training and scoring follow the model to its device: the numbers of the CPU there, and nothing left behind.

`test_other_device.py` runs these in a process of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fedvlm_secure.train.private_settings import PrivateSettings
from fedvlm_secure.train.session import LocalTraining, Tuning
from fedvlm_secure.train.settings import LocalSettings
from fedvlm_secure.vlm.adapters import Factors, LoraSettings, Strategy
from fedvlm_secure.vlm.base import shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.tasks.answers import answer_questions
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from tests.support.entropy import entropy
from tests.support.pretend_device import PretendedDevice, There, pretend_device

CONTRACT = derive_contract(contract_rows())
DATA = draw_hospital(SITES["coast"], patients=24, image_size=32, name="coast", rng=np.random.default_rng(2))
PLAIN = LocalSettings(0.01, 16, steps=2, augment="shift", proximal_mu=0.1)
PRIVATE = PrivateSettings(1.0, 1.0, 0.5, 2, 20, 0.01, patient_cap=3, mu=0.1, microbatch=24)
BASES = ("tiny-fuyu", "tiny-llava")


@pytest.fixture(autouse=True)
def device() -> Iterator[str]:
    with PretendedDevice():
        yield pretend_device()


def session(base: str, device: str, strategy: Strategy = "connector+lora", factors: Factors = "both") -> LocalTraining:
    return LocalTraining(
        Tuning(shipped_base(base), None, strategy, LoraSettings(r=4, factors=factors), seed=1, device=device),
        CONTRACT,
        DATA,
        PLAIN,
        batch_order=np.random.default_rng,
        split_key=bytes(32),
    )


def some_state(training: LocalTraining) -> np.ndarray:
    return np.random.default_rng(5).normal(scale=0.01, size=training.layout.dimension).astype(np.float32)


def test_the_device_refuses_what_a_gpu_refuses(device: str) -> None:
    here, there = torch.ones(2, 3), torch.ones(2, 3).to(device)
    assert type(there) is There and there.device == torch.device(device)
    for mixed in (
        lambda: here + there,
        lambda: torch.nn.functional.linear(here, there),
        lambda: torch.cat([here, there]),
        lambda: torch.nn.functional.embedding(torch.tensor([1]), there),
        lambda: torch.nn.functional.cross_entropy(there, torch.tensor([0, 1])),
    ):
        with pytest.raises(RuntimeError, match="one device"):
            mixed()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert torch.equal((there * torch.tensor(2.0)).to("cpu"), here * 2)  # a single number may come from the CPU
    assert there[torch.tensor([1])].device == there.device and torch.ones(2, device=device).device == there.device


@pytest.mark.parametrize("base", BASES)
def test_everything_of_the_model_lies_on_the_device_before_hooks_and_optimizer_see_it(base: str, device: str) -> None:
    model = session(base, device).tuned.model
    assert sum(".lora_" in name for name, _ in model.named_parameters()) > 0
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert isinstance(tensor, There), name


@pytest.mark.parametrize("base", BASES)
def test_a_plain_round_there_is_the_round_here(base: str, device: str) -> None:
    here, there = session(base, "cpu"), session(base, device)
    state = some_state(here)
    wanted, found = here.train(1, state), there.train(1, state)
    assert type(found.update) is np.ndarray and found.update.dtype == np.float32
    assert np.linalg.norm(found.update - wanted.update) < 0.01 * np.linalg.norm(wanted.update)
    assert (pytest.approx(found.loss_sum, rel=1e-4), found.loss_count) == (wanted.loss_sum, wanted.loss_count)


@pytest.mark.parametrize("base", BASES)
def test_a_private_round_there_is_the_round_here(base: str, device: str) -> None:
    here, there = session(base, "cpu", factors="ffa"), session(base, device, factors="ffa")
    state = some_state(here)
    wanted = here.train_private(1, state, PRIVATE, entropy("round")).update
    found = there.train_private(1, state, PRIVATE, entropy("round")).update
    assert type(found) is np.ndarray and found.dtype == np.float32 and found.any()
    # the same noise; now and then a gradient's last bit turns a rounding to the grid
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
    assert not any(hasattr(parameter, "grad_sample") for parameter in there.tuned.model.parameters())


@pytest.mark.parametrize("base", BASES)
def test_answers_there_are_the_answers_here(base: str, device: str) -> None:
    here, there = session(base, "cpu"), session(base, device)
    state = some_state(here)
    assert there.evaluate(state) == here.evaluate(state)


def test_answers_held_to_choices_there_are_those_here(device: str) -> None:
    rows = [row for row in DATA.rows if row.task == "vqa"][:6]
    pictures = DATA.pictures[[row.picture for row in rows]]
    said = []
    for member in (session("tiny-llava", "cpu"), session("tiny-llava", device)):
        codec = PromptCodec(member.tuned.base, CONTRACT)
        questions = [row.question for row in rows]
        choices = [("nodule", "effusion")] * len(rows)  # not what these questions are answered with
        said.append(answer_questions(member.tuned.model, codec, questions, codec.pixels(pictures), choices))
    assert said[0] == said[1]
    assert all(answer.free != answer.constrained for answer in said[0])
