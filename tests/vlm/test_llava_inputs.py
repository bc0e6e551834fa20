"""The encoder-based family: inputs as transformers' own processors make them, answers as `generate` gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.processing_llava import LlavaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.base import LoadedBase, load_base, shipped_base
from fedvlm_secure.vlm.contract import Contract, derive_contract
from fedvlm_secure.vlm.data.phantoms import HEART, SIDE, WHICH_FINDING, contract_rows
from fedvlm_secure.vlm.tasks.answers import answer_questions
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

CONTRACT = derive_contract(contract_rows())
TEXT: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def base() -> LoadedBase:
    return load_base(shipped_base("tiny-llava"))


def processor_of(base: LoadedBase, images: Any, **form: Any) -> Any:
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=base.tokenizer, pad_token="<pad>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return LlavaProcessor(image_processor=images, tokenizer=tokenizer, image_token="<image>", **form)


def drawn(count: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def random_llava(base: LoadedBase, vision: dict[str, Any], **form: Any) -> LoadedBase:
    ids = {mark: base.tokenizer.token_to_id(mark) for mark in ("<pad>", "<image>", "</s>")}
    text = {**TEXT, "vocab_size": base.tokenizer.get_vocab_size(), "pad_token_id": 0, "eos_token_id": ids["</s>"]}
    config = transformers.LlavaConfig(
        vision_config=vision, text_config={"bos_token_id": None, **text}, image_token_index=ids["<image>"], **form
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    return LoadedBase("random", model, base.tokenizer, "")


def test_prompt_and_picture_are_those_of_the_llava_processor(base: LoadedBase) -> None:
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32}, do_resize=False)
    processor = processor_of(
        base, images, patch_size=16, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )
    picture = drawn(1)
    wanted = processor(images=picture[0], text=f"USER: <image>\n{SIDE} ASSISTANT:", return_tensors="pt")
    codec = PromptCodec(base, CONTRACT)
    assert codec.prompt_ids(SIDE) == tuple(wanted["input_ids"][0].tolist())
    torch.testing.assert_close(codec.pixels(picture), wanted["pixel_values"])


@pytest.mark.parametrize(
    ("kind", "strategy", "extra", "tokens"),
    [
        ("clip_vision_model", "default", 1, 16),
        ("clip_vision_model", "full", 1, 17),
        ("siglip_vision_model", "full", 0, 16),
    ],
)
def test_image_tokens_are_as_many_as_processor_and_model_say(
    base: LoadedBase, kind: str, strategy: str, extra: int, tokens: int
) -> None:
    vision = {"model_type": kind, **VISION} | ({"projection_dim": 32} if kind.startswith("clip") else {})
    other = random_llava(base, vision, vision_feature_select_strategy=strategy, vision_feature_layer=-1)
    codec = PromptCodec(other, CONTRACT)
    ids = codec.prompt_ids(HEART)
    assert ids.count(other.model.config.image_token_id) == tokens
    processor = processor_of(
        other,
        CLIPImageProcessorPil(do_resize=False, do_center_crop=False),
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=extra,
    )
    asked = processor(images=drawn(1)[0], text=f"USER: <image>\n{HEART} ASSISTANT:", return_tensors="pt")
    assert ids == tuple(asked["input_ids"][0].tolist())
    with torch.no_grad():  # transformers raises when image tokens and features do not match
        logits = other.model(input_ids=torch.tensor([ids]), pixel_values=codec.pixels(drawn(1))).logits
    assert logits.shape[1] == len(ids)


def test_begin_mark_stands_first_where_the_config_names_one(base: LoadedBase) -> None:
    vision = {"model_type": "siglip_vision_model", **VISION}
    other = random_llava(base, vision, vision_feature_select_strategy="full", vision_feature_layer=-1)
    without = PromptCodec(other, CONTRACT).prompt_ids(HEART)
    other.model.config.text_config.bos_token_id = 7
    assert PromptCodec(other, CONTRACT).prompt_ids(HEART) == (7, *without)


def test_an_encoder_that_does_not_fix_its_number_of_features_is_refused(base: LoadedBase) -> None:
    vision = {"model_type": "pixtral", "head_dim": 8, **VISION}
    other = random_llava(base, vision, vision_feature_select_strategy="full", vision_feature_layer=-1)
    with pytest.raises(ModelError) as caught:
        PromptCodec(other, CONTRACT)
    assert caught.value.code == "FAMILY_NOT_SUPPORTED"
    assert "pixtral" in caught.value.cause


def test_a_family_without_a_prompt_form_is_refused_with_those_that_have_one(base: LoadedBase) -> None:
    vision = {"model_type": "clip_vision_model", "projection_dim": 32, **VISION}
    config = transformers.LlavaNextConfig(vision_config=vision, text_config={**TEXT, "vocab_size": 9})
    model = transformers.LlavaNextForConditionalGeneration(config)
    with pytest.raises(ModelError) as caught:
        PromptCodec(LoadedBase("next", model, base.tokenizer, ""), CONTRACT)
    assert caught.value.code == "FAMILY_NOT_SUPPORTED"
    assert "fuyu, llava" in caught.value.hint


def test_another_picture_size_than_the_encoders_is_refused(base: LoadedBase) -> None:
    with pytest.raises(ModelError) as caught:
        PromptCodec(base, Contract("{question}", 64, "unit", ("no",)))
    assert caught.value.code == "CONTRACT_MODEL"
    assert "64" in caught.value.cause
    assert "32" in caught.value.cause


def test_answers_come_back_as_text_and_no_text_makes_an_image_token(base: LoadedBase) -> None:
    codec = PromptCodec(base, CONTRACT)
    for answer in (*CONTRACT.vocabulary, "Überraschung 73 %"):
        assert codec.text(codec.answer_ids(answer)) == answer
    assert codec.longest_answer <= 4
    assert isinstance(base.tokenizer, Tokenizer)


@pytest.mark.parametrize("seed", [0, 1])
def test_free_answers_are_those_of_transformers_generate(base: LoadedBase, seed: int) -> None:
    codec = PromptCodec(base, CONTRACT)
    questions = [HEART, SIDE, WHICH_FINDING, HEART, "An unknown question?"]
    pixels = codec.pixels(drawn(5, seed))
    said = answer_questions(base.model, codec, questions, pixels, [CONTRACT.vocabulary] * 5)
    for number, question in enumerate(questions):
        prompt = torch.tensor([codec.prompt_ids(question)])
        out = base.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=pixels[number : number + 1],
            max_new_tokens=codec.longest_answer,
            do_sample=False,
        )
        assert said[number].free == codec.text(out[0, prompt.shape[1] :].tolist())


def test_constrained_answer_is_the_likeliest_first_token_among_the_choices(base: LoadedBase) -> None:
    codec = PromptCodec(base, CONTRACT)
    pixels = codec.pixels(drawn(6, 5))
    said = answer_questions(base.model, codec, [SIDE] * 6, pixels, [("nodule", "effusion")] * 6)
    prompt = torch.tensor([codec.prompt_ids(SIDE)] * 6)
    with torch.no_grad():
        logits = base.model(input_ids=prompt, pixel_values=pixels).logits[:, -1]
    first = [codec.answer_ids(choice)[0] for choice in ("nodule", "effusion")]
    for number, answer in enumerate(said):
        assert answer.constrained == ("nodule", "effusion")[int(logits[number, first].argmax())]
