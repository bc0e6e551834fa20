"""LLaVA: a vision encoder, a connector, a language model; one image token for each feature vector of a picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.families.form import Family, PromptForm, end_token
from fedvlm_secure.vlm.tasks.patches import picture_channels

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TURN, REPLY = "USER: ", " ASSISTANT:"
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def _form(config: Any, tokenizer: Tokenizer, contract: Contract) -> PromptForm:
    """`USER: <image>`, a new line, the question, ` ASSISTANT:`, after the begin mark where the config names one.

    One picture a prompt: then a row of a batch is one picture for the vision encoder and the connector too, and
    per-sample gradients of the connector have one entry for each row.

    Source: Liu et al. 2023 (LLaVA-1.5), its chat template in transformers.
    """
    begin = config.get_text_config().bos_token_id
    turn = tuple(tokenizer.encode(TURN, add_special_tokens=False).ids)
    picture = (int(config.image_token_id),) * image_tokens(config, contract)
    return PromptForm(
        before=(*(() if begin is None else (int(begin),)), *turn, *picture),
        opening="\n",
        closing=REPLY,
        after=(),
        end=end_token(config),
        pixels=partial(picture_channels, normalisation=contract.normalisation),
    )


def image_tokens(config: Any, contract: Contract) -> int:
    """Feature vectors that the vision encoder gives for one picture of the contract's size.

    Args:
        config: a `LlavaConfig`.

    Raises:
        ModelError: FAMILY_NOT_SUPPORTED for an encoder whose number of features the config does not fix;
            CONTRACT_MODEL for another picture size than the encoder's.
    """
    vision = config.vision_config
    if vision.model_type not in _CLASS_TOKENS:
        raise ModelError(
            "FAMILY_NOT_SUPPORTED",
            f"llava with the vision encoder {vision.model_type}: the config does not fix the number of image tokens",
            f"use a base with one of {', '.join(sorted(_CLASS_TOKENS))}",
        )
    if contract.image_size != vision.image_size:
        raise ModelError(
            "CONTRACT_MODEL",
            f"contract.image_size {contract.image_size}, the vision encoder takes {vision.image_size}",
            "correct the contract",
        )
    patches = (vision.image_size // vision.patch_size) ** 2
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    return int(patches + _CLASS_TOKENS[vision.model_type] - dropped)


def _model_class() -> Any:
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration


LLAVA = Family("llava", _model_class, _form)
