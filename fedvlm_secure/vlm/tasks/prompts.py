"""Token ids of a question and of its answer, in the form that the model's family was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.base import LoadedBase
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.vocabulary import ANSWER

_NEWLINE, _BEGIN = "|NEWLINE|", "<s>"


class PromptCodec:
    """Fuyu's prompt: picture tokens row by row, the question, the begin-of-answer mark, the answer, the end mark.

    The newline mark after each row of patches and the begin mark are put where the tokenizer has them (fuyu-8b does,
    tiny-fuyu does not).

    Args:
        base: a loaded Fuyu base.
        contract: prompt, picture size and vocabulary.

    Raises:
        ModelError: FAMILY_NOT_SUPPORTED for another family; CONTRACT_MODEL when picture size or tokens do not fit.
    """

    def __init__(self, base: LoadedBase, contract: Contract) -> None:
        config = base.model.config
        if config.model_type != "fuyu":
            raise ModelError(
                "FAMILY_NOT_SUPPORTED",
                f"the family {config.model_type} has no prompt form here yet",
                "use a base of the family fuyu",
            )
        if contract.image_size % config.patch_size:
            raise ModelError(
                "CONTRACT_MODEL",
                f"contract.image_size {contract.image_size} is no multiple of the model's patch {config.patch_size}",
                "correct the contract",
            )
        self._contract, self._tokenizer = contract, base.tokenizer
        self.end = _end_token(config)
        self._before = self._picture_ids(config)
        self._after = tuple(self._mark(ANSWER))
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._answers: dict[str, tuple[int, ...]] = {}
        self.longest_answer = max(len(self.answer_ids(answer)) for answer in contract.vocabulary)

    def prompt_ids(self, question: str) -> tuple[int, ...]:
        """Everything before the answer."""
        found = self._prompts.get(question)
        if found is None:
            middle = self._tokenizer.encode(self._contract.fill(question), add_special_tokens=False).ids
            found = self._prompts[question] = (*self._before, *middle, *self._after)
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

    def _mark(self, token: str) -> list[int]:
        found = self._tokenizer.token_to_id(token)
        return [] if found is None else [found]

    def _picture_ids(self, config: Any) -> tuple[int, ...]:
        across = self._contract.image_size // config.patch_size
        row = [config.image_token_id] * across + self._mark(_NEWLINE)
        return (*(row * across), *self._mark(_BEGIN))


def _end_token(config: Any) -> int:
    end = config.get_text_config().eos_token_id
    if isinstance(end, list):
        end = end[0] if end else None
    if end is None:
        raise ModelError("CONTRACT_MODEL", "the base's config names no end-of-text token", "set eos_token_id")
    return int(end)
