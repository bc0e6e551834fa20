"""Pre-train a tiny base on public pictures, so that a federation only has to teach it what it does not know.

A share of the batches' items teaches form and not content: which way up a picture is, repeating each answer, and each
question of the contract with a random allowed answer. Without them the frozen head's rows of answer words that the
public data never use are pushed down, and connector and LoRA cannot bring them back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedvlm_secure.train.batches import answer_loss, make_batch, shift_pictures
from fedvlm_secure.vlm.base import LoadedBase, quiet_progress
from fedvlm_secure.vlm.contract import Contract
from fedvlm_secure.vlm.data.rows import HospitalData, Pictures, Row
from fedvlm_secure.vlm.tasks.patches import picture_argument
from fedvlm_secure.vlm.tasks.prompts import PromptCodec
from fedvlm_secure.vlm.tiny_models import TinyModel
from fedvlm_secure.vlm.vocabulary import train_tokenizer

WAY_UP = "Which way up is the picture: up, left, down or right?"
_TURNS = ("up", "left", "down", "right")
_ANSWER_WEIGHT = 50


@dataclass(frozen=True)
class Pretraining:
    """The recipe.

    Args:
        steps, batch_size, learning_rate: AdamW with cosine decay to zero after a short linear start.
        weight_decay: on all weights.
        format_share: share of items that teach form.
        max_shift: pixels by which pictures are moved at random.
    """

    steps: int = 1440
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    format_share: float = 0.3
    max_shift: int = 2


@dataclass(frozen=True, eq=False)
class FormatItems:
    """What the contract lets a base know in advance: its questions, their allowed answers, and all answers."""

    questions: tuple[tuple[str, tuple[str, ...]], ...]
    answers: tuple[str, ...]


def format_items(rows: Sequence[Row]) -> FormatItems:
    """Questions and allowed answers of a federation's training rows; nothing about any picture.

    Args:
        rows: training rows of the scored tasks.
    """
    allowed: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        allowed[row.question] |= {row.answer, *row.choices}
    questions = tuple((question, tuple(sorted(allowed[question]))) for question in sorted(allowed))
    return FormatItems(questions, tuple(sorted({answer for _, answers in questions for answer in answers})))


def pretrain_base(
    tiny: TinyModel,
    public: HospitalData,
    known: FormatItems,
    contract: Contract,
    recipe: Pretraining,
    *,
    rng: np.random.Generator,
    progress: Callable[[int, float], None],
) -> LoadedBase:
    """Build and train a small base; every weight depends on the arguments alone (on one kind of machine).

    Args:
        tiny: architecture and tokenizer marks.
        public: public rows and pictures of the contract's size.
        known: format items of the federations to come.
        contract: prompt, picture size, normalisation.
        recipe: optimizer and length.
        rng: the only source of chance.
        progress: called with step and the batch's mean loss in nats, each step.

    Returns:
        The base, not saved, with an empty fingerprint.
    """
    import torch

    base = _untrained(tiny, public, known, rng)
    model, codec = base.model, PromptCodec(base, contract)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
    argument = picture_argument(model)
    model.train()
    for step in range(recipe.steps):
        pairs, pictures = _draw(public, known, recipe, rng)
        batch = make_batch(codec, pairs, pictures)
        loss = answer_loss(model, batch, codec.pixels(pictures), argument) / len(batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, float(loss.detach()))
    model.eval()
    if tiny.half:
        _round_to_half(model)
    return base


def _untrained(tiny: TinyModel, public: HospitalData, known: FormatItems, rng: np.random.Generator) -> LoadedBase:
    """Tokenizer and random weights."""
    texts = sorted({row.question for row in public.rows} | {question for question, _ in known.questions} | {WAY_UP})
    words = sorted({row.answer for row in public.rows} | set(known.answers) | set(_TURNS))
    weighted = [
        text for text in (*(f" {answer}" for answer in known.answers), *tiny.words) for _ in range(_ANSWER_WEIGHT)
    ]
    tokenizer = train_tokenizer([*texts, *(f" {word}" for word in words), *weighted], marks=tiny.marks)
    return LoadedBase(tiny.name, tiny.untrained(tokenizer, rng), tokenizer, "")


def _round_to_half(model: Any) -> None:
    """Weights as float16 will store them, so that the base in memory is the base in the file."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())


def save_base(base: LoadedBase, directory: Path, *, half: bool = False) -> None:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json.

    Args:
        base: its weights stay float32 in memory.
        directory: made when missing.
        half: store float16; exact for a base whose weights were rounded so.
    """
    from transformers import PreTrainedTokenizerFast

    quiet_progress()
    directory.mkdir(parents=True, exist_ok=True)
    if half:
        base.model.half()
    base.model.save_pretrained(str(directory), safe_serialization=True)
    base.model.float()
    text = base.model.config.get_text_config()
    pad, end = (base.tokenizer.id_to_token(number) for number in (text.pad_token_id, text.eos_token_id))
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=base.tokenizer, pad_token=pad, eos_token=end).save_pretrained(str(directory))
    for path in directory.iterdir():  # safetensors writes 0600, but a base is public
        path.chmod(0o644)


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 30)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def _draw(
    public: HospitalData, known: FormatItems, recipe: Pretraining, rng: np.random.Generator
) -> tuple[list[tuple[str, str]], Pictures]:
    """One batch of (question, answer) pairs and moved pictures."""
    numbers = rng.integers(0, len(public.rows), recipe.batch_size)
    rows = [public.rows[number] for number in numbers]
    pictures = shift_pictures(public.pictures[[row.picture for row in rows]], recipe.max_shift, rng)
    pairs = [(row.question, row.answer) for row in rows]
    for place in np.flatnonzero(rng.random(recipe.batch_size) < recipe.format_share):
        pairs[place], pictures[place] = _format_item(known, pictures[place], rng)
    return pairs, pictures


def _format_item(known: FormatItems, picture: Any, rng: np.random.Generator) -> tuple[tuple[str, str], Any]:
    match int(rng.integers(0, 3)):
        case 0:
            turn = int(rng.integers(0, len(_TURNS)))
            return (WAY_UP, _TURNS[turn]), np.rot90(picture, turn)
        case 1:
            answer = known.answers[rng.integers(0, len(known.answers))]
            return (f"Repeat: {answer}", answer), picture
        case _:
            question, allowed = known.questions[rng.integers(0, len(known.questions))]
            return (question, allowed[rng.integers(0, len(allowed))]), picture
