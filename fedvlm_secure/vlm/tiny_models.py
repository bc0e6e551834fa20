"""The small models that the package builds from configs, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm import tiny_fuyu, tiny_llava
from fedvlm_secure.vlm.contract import Normalisation
from fedvlm_secure.vlm.families.llava import REPLY, TURN
from fedvlm_secure.vlm.vocabulary import ANSWER, END, IMAGE, PAD, token_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TinyModel:
    """How one small model is made.

    Args:
        name: of the base and of its folder.
        image_size: side of its pictures in pixels.
        normalisation: of the contract that it is made for, where none is asked for. The LLaVA sees standardised
            pictures: with the brightness that all have in common, it did not learn to look at them.
        marks: padding mark, image token, further marks, end mark, in the order of their ids.
        words: what the family's prompt form says around a question, for the tokenizer.
        half: weights are rounded to float16 and stored so, which halves the file.
        config: keyword arguments vocabulary, image_token, end_token, pad_token -> the model's config.
        fresh: (config, generator) -> a model with random weights.
    """

    name: str
    image_size: int
    normalisation: Normalisation
    marks: tuple[str, ...]
    words: tuple[str, ...]
    half: bool
    config: Callable[..., Any]
    fresh: Callable[[Any, np.random.Generator], Any]

    def untrained(self, tokenizer: Tokenizer, rng: np.random.Generator) -> Any:
        """A `PreTrainedModel` for a tokenizer that was trained with these marks; its weights come from `rng`."""
        config = self.config(
            vocabulary=tokenizer.get_vocab_size(),
            image_token=token_id(tokenizer, self.marks[1]),
            end_token=token_id(tokenizer, self.marks[-1]),
            pad_token=token_id(tokenizer, self.marks[0]),
        )
        return self.fresh(config, rng)


TINY_FUYU = TinyModel(
    name="tiny-fuyu",
    image_size=tiny_fuyu.IMAGE_SIZE,
    normalisation="unit",
    marks=(PAD, IMAGE, ANSWER, END),
    words=(),
    half=False,
    config=tiny_fuyu.tiny_fuyu_config,
    fresh=tiny_fuyu.fresh_tiny_fuyu,
)
TINY_LLAVA = TinyModel(
    name="tiny-llava",
    image_size=tiny_llava.IMAGE_SIZE,
    normalisation="standard",
    marks=("<pad>", "<image>", "</s>"),
    words=(TURN, REPLY),
    half=True,
    config=tiny_llava.tiny_llava_config,
    fresh=tiny_llava.fresh_tiny_llava,
)
TINY_MODELS = MappingProxyType({model.name: model for model in (TINY_FUYU, TINY_LLAVA)})


def tiny_model(name: str) -> TinyModel:
    """The small model of a name.

    Raises:
        ModelError: BASE_MISSING.
    """
    found = TINY_MODELS.get(name)
    if found is None:
        raise ModelError(
            "BASE_MISSING", f"no recipe for a base named {name[:40]!r}", f"use {' or '.join(sorted(TINY_MODELS))}"
        )
    return found
