"""Fuyu: patches go straight into the language model, row by row."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.families.form import Family, PromptForm, end_token, mark
from fedvlm_secure.vlm.tasks.patches import picture_patches
from fedvlm_secure.vlm.vocabulary import ANSWER

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NEWLINE, _BEGIN = "|NEWLINE|", "<s>"


def _form(config: Any, tokenizer: Tokenizer, contract: Contract) -> PromptForm:
    """Picture tokens row by row, the question, the begin-of-answer mark.

    The newline mark after each row of patches and the begin mark are put where the tokenizer has them (fuyu-8b does,
    tiny-fuyu does not).

    Source: FuyuProcessor of transformers; Bavishi et al. 2023.
    """
    if contract.image_size % config.patch_size:
        raise ModelError(
            "CONTRACT_MODEL",
            f"contract.image_size {contract.image_size} is no multiple of the model's patch {config.patch_size}",
            "correct the contract",
        )
    across = contract.image_size // config.patch_size
    row = (config.image_token_id,) * across + mark(tokenizer, _NEWLINE)
    return PromptForm(
        before=row * across + mark(tokenizer, _BEGIN),
        opening="",
        closing="",
        after=mark(tokenizer, ANSWER),
        end=end_token(config),
        pixels=partial(picture_patches, patch=config.patch_size, normalisation=contract.normalisation),
    )


def _model_class() -> Any:
    from transformers.models.fuyu.modeling_fuyu import FuyuForCausalLM  # two seconds faster than the auto class

    return FuyuForCausalLM


FUYU = Family("fuyu", _model_class, _form)
