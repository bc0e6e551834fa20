"""Inputs as transformers makes them, answers as `generate` gives them, scores as statisticians count them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil

from fedvlm_secure.errors import DataError, ModelError
from fedvlm_secure.vlm.base import LoadedBase, load_base, shipped_base
from fedvlm_secure.vlm.contract import Contract, check_vocabulary, derive_contract
from fedvlm_secure.vlm.data.phantoms import HEART, SIDE, WHICH_FINDING, contract_rows
from fedvlm_secure.vlm.data.rows import Row
from fedvlm_secure.vlm.tasks.answers import Answer, answer_questions
from fedvlm_secure.vlm.tasks.patches import picture_argument, picture_patches
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from fedvlm_secure.vlm.tasks.scores import Score, exact_match, score_answers, wilson_interval

CONTRACT = derive_contract(contract_rows())


@pytest.fixture(scope="module")
def base() -> LoadedBase:
    return load_base(shipped_base("tiny-fuyu"))


def pictures(count: int) -> Any:
    return np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def test_patches_are_those_of_the_fuyu_processor() -> None:
    processor = FuyuImageProcessorPil(patch_size={"height": 16, "width": 16})
    drawn = pictures(3)
    normalised = drawn.astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(
        picture_patches(drawn, patch=16, normalisation="unit"), torch.from_numpy(processor.patchify_image(normalised))
    )


def test_standard_normalisation_takes_out_gain_and_offset_of_a_scanner() -> None:
    one = pictures(1).astype(np.float64) * 0.5 + 20
    other = one * 1.5 + 10
    shown = [picture_patches(p.round().astype(np.uint8), patch=16, normalisation="standard") for p in (one, other)]
    assert float((shown[0] - shown[1]).abs().max()) < 0.05
    assert not torch.isnan(
        picture_patches(np.zeros((1, 32, 32, 3), np.uint8), patch=16, normalisation="standard")
    ).any()


def test_picture_argument_is_looked_up_and_not_guessed(base: LoadedBase) -> None:
    class Older:
        def forward(self, input_ids: object, image_patches: object) -> None: ...

    assert picture_argument(base.model) == "pixel_values"
    assert picture_argument(Older()) == "image_patches"


def test_prompt_has_one_token_for_each_patch_and_answers_come_back_as_text(base: LoadedBase) -> None:
    codec = PromptCodec(base, CONTRACT)
    ids = codec.prompt_ids(WHICH_FINDING)
    assert ids[:4] == (base.model.config.image_token_id,) * 4
    assert base.model.config.image_token_id not in ids[4:]
    for answer in (*CONTRACT.vocabulary, "Überraschung 73 %"):
        assert codec.text(codec.answer_ids(answer)) == answer
    assert max(len(codec.answer_ids(answer)) for answer in CONTRACT.vocabulary) == codec.longest_answer <= 4


@pytest.mark.parametrize("seed", [0, 1])
def test_free_answers_are_those_of_transformers_generate(base: LoadedBase, seed: int) -> None:
    codec = PromptCodec(base, CONTRACT)
    questions = [HEART, SIDE, WHICH_FINDING, HEART, "An unknown question?"]
    patches = torch.from_numpy(np.random.default_rng(seed).normal(0, 1, (5, 4, 768)).astype(np.float32))
    said = answer_questions(base.model, codec, questions, patches, [CONTRACT.vocabulary] * 5)
    for number, question in enumerate(questions):
        prompt = torch.tensor([codec.prompt_ids(question)])
        out = base.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=patches[number : number + 1],
            max_new_tokens=codec.longest_answer,
            do_sample=False,
        )
        assert said[number].free == codec.text(out[0, prompt.shape[1] :].tolist())


def test_constrained_answer_is_the_likeliest_first_token_among_the_choices(base: LoadedBase) -> None:
    codec = PromptCodec(base, CONTRACT)
    patches = torch.from_numpy(np.random.default_rng(5).normal(0, 1, (6, 4, 768)).astype(np.float32))
    choices = [("nodule", "effusion")] * 6
    said = answer_questions(base.model, codec, [SIDE] * 6, patches, choices)
    prompt = torch.tensor([codec.prompt_ids(SIDE)] * 6)
    with torch.no_grad():
        logits = base.model(input_ids=prompt, pixel_values=patches).logits[:, -1]
    first = [codec.answer_ids(choice)[0] for choice in choices[0]]
    for number, answer in enumerate(said):
        assert answer.free not in choices[0]
        assert answer.constrained == choices[0][int(logits[number, first].argmax())]


def test_an_allowed_free_answer_is_also_the_constrained_one(base: LoadedBase) -> None:
    codec = PromptCodec(base, CONTRACT)
    patches = torch.zeros(2, 4, 768)
    said = answer_questions(base.model, codec, [HEART, HEART], patches, [("no", "yes"), ("no", "yes")])
    assert said[0] == said[1]
    assert said[0].free == said[0].constrained in ("no", "yes")


def test_a_picture_size_that_the_patches_do_not_fit_is_refused(base: LoadedBase) -> None:
    with pytest.raises(ModelError) as caught:
        PromptCodec(base, Contract("{question}", 40, "unit", ("no",)))
    assert caught.value.code == "CONTRACT_MODEL"


# Wilson 1927; values of R's prop.test(k, n, correct = FALSE)$conf.int
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(8, 10, 0.4901625, 0.9433178), (0, 20, 0.0, 0.1611252), (20, 20, 0.8388748, 1.0)],
)
def test_wilson_interval_is_that_of_r(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=1e-7)


def test_exact_match_forgives_case_and_space_and_nothing_else() -> None:
    assert exact_match(" Abdominal  CT", "abdominal ct")
    assert not exact_match("abdominal", "abdominal ct")
    assert not exact_match("yes.", "yes")
    assert not exact_match("", "no")


def test_scores_are_counted_per_task_and_question_in_both_columns() -> None:
    rows = [
        Row("A?", "yes", "vqa", "p", 0, "x"),
        Row("A?", "no", "vqa", "p", 0, "x"),
        Row("B?", "b", "classification", "p", 0, "x"),
    ]
    scored = score_answers(rows, [Answer("yes", "yes"), Answer("junk", "no"), Answer("c", "c")])
    assert scored.tasks == {"vqa": Score(1, 2, 2), "classification": Score(0, 1, 0)}
    assert scored.questions == {
        ("vqa", "A?"): Score(1, 2, 2),
        ("classification", "B?"): Score(0, 1, 0),
    }


def test_a_score_above_its_total_is_our_bug() -> None:
    with pytest.raises(ValueError, match="counts"):
        Score(3, 2, 0)


@pytest.mark.parametrize(
    "wrong",
    [("no question", 32, "unit", ("a",)), ("{question}", 32, "unit", ("b", "a")), ("{question}", 32, "unit", ())],
)
def test_a_contract_that_contradicts_itself_is_our_bug(wrong: Any) -> None:
    with pytest.raises(ValueError, match="contract"):
        Contract(*wrong)


def test_a_question_with_braces_is_only_text() -> None:
    contract = Contract("Q: {question} A:", 32, "unit", ("a",))
    assert contract.fill("{question} {0}") == "Q: {question} {0} A:"


def test_an_answer_outside_the_vocabulary_names_its_line() -> None:
    with pytest.raises(DataError) as caught:
        check_vocabulary(CONTRACT, [Row("A?", "perhaps", "vqa", "p", 0, "h.jsonl:7")])
    assert (caught.value.code, caught.value.cause[:10]) == ("ANSWER_OUTSIDE_VOCABULARY", "h.jsonl:7:")
