"""The encoder-based base trains through the same session, and its rows can be told apart under `dp_sgd`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.admission import admit
from fedvlm_secure.train.batches import answer_loss, make_batch
from fedvlm_secure.train.private_gradients import RowGradients, RowLoss
from fedvlm_secure.train.session import LocalTraining, Tuning
from fedvlm_secure.train.settings import LocalSettings
from fedvlm_secure.vlm.adapters import LoraSettings, Strategy, TunedModel
from fedvlm_secure.vlm.base import fingerprint, load_base, shipped_base
from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.data.rows import HospitalData, Row
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

SHIPPED = shipped_base("tiny-llava")
CONTRACT = derive_contract(contract_rows(), normalisation="standard")


def hospital(site: str, patients: int = 120) -> HospitalData:
    rng = np.random.default_rng([4, len(site)])
    return draw_hospital(SITES[site], patients=patients, image_size=32, name=site, rng=rng)


def session(site: str, strategy: Strategy = "connector+lora") -> LocalTraining:
    return LocalTraining(
        Tuning(SHIPPED, fingerprint(SHIPPED), strategy, LoraSettings(), 2026),
        CONTRACT,
        hospital(site),
        LocalSettings(learning_rate=3e-3, batch_size=32, steps=25),
        batch_order=lambda round_number: np.random.default_rng([round_number, len(site)]),
        split_key=b"split",
        min_patients=20,
    )


def tuned(strategy: Strategy, factors: str = "both") -> tuple[TunedModel, PromptCodec]:
    base = load_base(SHIPPED)
    lora = LoraSettings(factors=factors)  # type: ignore[arg-type]
    return TunedModel(base, strategy=strategy, lora=lora, seed=1), PromptCodec(base, CONTRACT)


def scored_rows(data: HospitalData, count: int) -> list[Row]:
    return [row for row in data.rows if row.task in ("vqa", "classification")][:count]


def test_loss_at_answer_positions_is_that_of_transformers_with_masked_labels() -> None:
    model, codec = tuned("connector+lora")
    data = hospital("coast", 20)
    rows = scored_rows(data, 7)
    pairs = [(row.question, row.answer) for row in rows]
    batch = make_batch(codec, pairs, data.pictures[[row.picture for row in rows]])
    pixels = codec.pixels(batch.pictures)
    ours = answer_loss(model.model, batch, pixels, "pixel_values")
    total = 0.0
    for number, (question, answer) in enumerate(pairs):
        prompt, said = codec.prompt_ids(question), codec.answer_ids(answer)
        ids = torch.tensor([prompt + said])
        labels = torch.tensor([(-100,) * len(prompt) + said])
        out = model.model(input_ids=ids, pixel_values=pixels[number : number + 1], labels=labels)
        total += float(out.loss.detach()) * len(said)
    assert float(ours.detach()) == pytest.approx(total, rel=1e-5)


def test_three_hospitals_learn_together_in_two_rounds() -> None:
    members = [session(site) for site in ("coast", "valley", "harbour")]
    state = np.zeros(members[0].layout.dimension, np.float32)
    before = [member.evaluate(state) for member in members]
    for round_number in (1, 2):
        updates = [member.train(round_number, state) for member in members]
        state = (state + np.mean([update.update for update in updates], axis=0)).astype(np.float32)
    after = [member.evaluate(state) for member in members]
    assert len({member.layout.digest for member in members}) == 1
    correct = [sum(score.correct for e in when for score in e.tasks.values()) for when in (before, after)]
    total = sum(score.total for e in after for score in e.tasks.values())
    assert (correct[1] - correct[0]) / total > 0.10


@pytest.mark.parametrize("strategy", ["connector", "lora", "connector+lora"])
def test_a_round_moves_every_part_that_the_strategy_trains_and_no_other(strategy: Strategy) -> None:
    member = session("coast", strategy)
    frozen = {n: p.detach().clone() for n, p in member.tuned.model.named_parameters() if not p.requires_grad}
    update = member.train(1, np.zeros(member.layout.dimension, np.float32)).update
    assert all(np.any(update[span]) for _, span in member.layout.spans())
    assert all(torch.equal(p, frozen[n]) for n, p in member.tuned.model.named_parameters() if n in frozen)


@pytest.mark.parametrize(
    ("strategy", "factors"), [("connector", "both"), ("lora", "ffa"), ("connector+lora", "ffa"), ("lora", "both")]
)
def test_gradients_of_single_rows_are_those_of_a_loop(strategy: Strategy, factors: str) -> None:
    model, codec = tuned(strategy, factors)
    assert admit(model, codec, CONTRACT) < 1e-4


class TwoPicturesARow(RowLoss):
    """The same question about two pictures in one prompt, as a conversation about a study would have it."""

    def __init__(self, tuned: TunedModel, codec: PromptCodec, data: HospitalData) -> None:
        super().__init__(tuned, codec, data.pictures)
        self._form, self._shown = codec, data.pictures

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        prompts = torch.tensor([self._form.prompt_ids(row.question) for row in rows])
        both = torch.cat([prompts, prompts], dim=1)
        seen = self._shown[[row.picture for row in rows for _ in range(2)]]
        logits = self.tuned.model(input_ids=both, pixel_values=self._form.pixels(seen)).logits[:, -1]
        target = torch.tensor([self._form.answer_ids(row.answer)[0] for row in rows])
        return torch.nn.functional.cross_entropy(logits, target, reduction="sum")


def test_two_pictures_in_a_row_are_refused_and_not_clipped_as_two_rows() -> None:
    data = hospital("coast", 20)
    rows = [row for row in data.rows if row.task == "classification"][:3]
    model, codec = tuned("connector")
    with RowGradients(TwoPicturesARow(model, codec, data)) as gradients, pytest.raises(ModelError) as caught:
        gradients.of(rows)
    assert caught.value.code == "DP_ROWS_MIXED"
    assert "multi_modal_projector" in caught.value.cause
