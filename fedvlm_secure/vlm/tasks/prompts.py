"""Token ids of a question and of its answer, in the form that the model's family was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedvlm_secure.vlm.base import LoadedBase
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.data.rows import Pictures
from fedvlm_secure.vlm.families.registry import family_of

if TYPE_CHECKING:
    import torch


class PromptCodec:
    """A question, an answer and a picture as one family's model takes them.

    Args:
        base: a loaded base of a family that `families.registry` knows.
        contract: prompt, picture size, normalisation and vocabulary.

    Raises:
        ModelError: FAMILY_NOT_SUPPORTED for another family; CONTRACT_MODEL when picture size or tokens do not fit.
    """

    def __init__(self, base: LoadedBase, contract: Contract) -> None:
        config = base.model.config
        self._contract, self._tokenizer = contract, base.tokenizer
        self._form = family_of(config.model_type).form(config, base.tokenizer, contract)
        self.end = self._form.end
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._answers: dict[str, tuple[int, ...]] = {}
        self.longest_answer = max(len(self.answer_ids(answer)) for answer in contract.vocabulary)

    def prompt_ids(self, question: str) -> tuple[int, ...]:
        """Everything before the answer."""
        found = self._prompts.get(question)
        if found is None:
            form = self._form
            text = f"{form.opening}{self._contract.fill(question)}{form.closing}"
            middle = self._tokenizer.encode(text, add_special_tokens=False).ids
            found = self._prompts[question] = (*form.before, *middle, *form.after)
        return found

    def answer_ids(self, answer: str) -> tuple[int, ...]:
        """The answer with a space before it (as where a question names it) and the end mark."""
        found = self._answers.get(answer)
        if found is None:
            ids = self._tokenizer.encode(f" {answer}", add_special_tokens=False).ids
            found = self._answers[answer] = (*ids, self.end)
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids, up to the end mark, as text without surrounding space."""
        kept = list(ids[: ids.index(self.end)] if self.end in ids else ids)
        return str(self._tokenizer.decode(kept, skip_special_tokens=False)).strip()

    def pixels(self, pictures: Pictures) -> torch.Tensor:
        """Pictures as the model's picture argument takes them.

        Args:
            pictures: uint8 [n, side, side, 3] of the contract's size.

        Returns:
            float32 [n, ...] in the family's shape; entry i belongs to picture i.
        """
        return self._form.pixels(pictures)
