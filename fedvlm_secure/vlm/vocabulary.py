"""Byte-level tokenizers trained on public text and the contract: every word of an answer becomes one token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# the marks of Fuyu's prompt, as in transformers' FuyuProcessor
PAD, IMAGE, ANSWER, END = "|PAD|", "|SPEAKER|", "<0x04>", "|ENDOFTEXT|"
LOCATIONS = tuple(f"<loc_{number:02d}>" for number in range(32))


def train_tokenizer(texts: Iterable[str], *, marks: Sequence[str], size: int = 930) -> Tokenizer:
    """Byte-level BPE: no unknown token, so text outside the contract is spelt in bytes.

    Args:
        texts: questions and answers; an answer counts as often as it is given. Answers start with a space, as they
            do where a question names them.
        marks: tokens that no text is cut into, in the order of their ids: padding, image, end and others.
        size: number of tokens at most, with 256 bytes, the marks and 32 location tokens.

    Source: Sennrich et al. 2016.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*marks, *LOCATIONS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Id of a mark that the tokenizer was trained with.

    Raises:
        ValueError: the tokenizer does not have it.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token}")
    return found
