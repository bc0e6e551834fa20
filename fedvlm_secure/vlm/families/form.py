"""The form of one family's inputs, as a record: what stands around a question, and how pictures become a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.data.rows import Pictures

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


@dataclass(frozen=True, eq=False)
class PromptForm:
    """A prompt is before + ids of (opening, question, closing) + after; the answer and the end mark follow.

    Args:
        before: ids in front of the text, with one image token for each feature vector of a picture.
        opening, closing: text that is tokenised together with the question.
        after: ids between the text and the answer.
        end: id that ends an answer.
        pixels: uint8 [n, side, side, 3] -> float32 [n, ...], the model's picture argument.
    """

    before: tuple[int, ...]
    opening: str
    closing: str
    after: tuple[int, ...]
    end: int
    pixels: Callable[[Pictures], torch.Tensor]


@dataclass(frozen=True)
class Family:
    """One family of transformers.

    Args:
        model_type: as in config.json.
        model_class: gives the model's class; called when it is needed, since importing it takes seconds.
        form: (model's config, tokenizer, contract) -> the form; raises `ModelError` where they do not fit.
    """

    model_type: str
    model_class: Callable[[], Any]
    form: Callable[[Any, Tokenizer, Contract], PromptForm]


def end_token(config: Any) -> int:
    """The id that ends an answer, from the language model's part of a config.

    Raises:
        ModelError: CONTRACT_MODEL, the config names none.
    """
    end = config.get_text_config().eos_token_id
    if isinstance(end, list):
        end = end[0] if end else None
    if end is None:
        raise ModelError("CONTRACT_MODEL", "the base's config names no end-of-text token", "set eos_token_id")
    return int(end)


def mark(tokenizer: Tokenizer, token: str) -> tuple[int, ...]:
    """The id of a mark, or nothing where the tokenizer does not have it."""
    found = tokenizer.token_to_id(token)
    return () if found is None else (int(found),)
