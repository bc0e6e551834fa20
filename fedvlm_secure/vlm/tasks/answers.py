"""Generate answers: freely (the headline) and held to the allowed answers (a second column)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedvlm_secure.vlm.tasks.patches import picture_argument
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

if TYPE_CHECKING:
    import torch

_BATCH = 256


@dataclass(frozen=True)
class Answer:
    """What the model said: `free` from greedy generation, `constrained` held to the question's choices."""

    free: str
    constrained: str


def answer_questions(
    model: Any, codec: PromptCodec, questions: Sequence[str], patches: torch.Tensor, choices: Sequence[Sequence[str]]
) -> list[Answer]:
    """Greedy, batched answers.

    Prompts of equal length share a batch, so nothing is padded and no mask can be wrong. Constrained decoding is
    greedy over the prefix tree of the allowed answers; where the free answer is an allowed one, both are equal by
    construction and it is not generated twice.

    Args:
        model: in evaluation mode.
        codec: prompt form.
        questions: n texts.
        patches: float32 [n, ...], pictures in the family's form (`PromptCodec.pixels`); a batch at a time is copied to
            where the model is.
        choices: n lists of allowed answers, none empty.

    Returns:
        n answers.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        by_length[len(codec.prompt_ids(question))].append(number)
    answers: dict[int, Answer] = {}
    for group in by_length.values():
        for first in range(0, len(group), _BATCH):
            numbers = group[first : first + _BATCH]
            prompts = [codec.prompt_ids(questions[number]) for number in numbers]
            trees = [[codec.answer_ids(choice) for choice in choices[number]] for number in numbers]
            answers.update(zip(numbers, _answer_batch(model, codec, prompts, patches[numbers], trees), strict=True))
    return [answers[number] for number in range(len(questions))]


def _answer_batch(
    model: Any,
    codec: PromptCodec,
    prompts: Sequence[tuple[int, ...]],
    patches: torch.Tensor,
    trees: Sequence[Sequence[tuple[int, ...]]],
) -> list[Answer]:
    """Both answers to prompts of one length; `trees` are the allowed answers' token ids."""
    free = _greedy(model, prompts, patches, codec.end, codec.longest_answer, None)
    held = list(free)
    strays = [at for at, tree in enumerate(trees) if free[at] not in tree]
    if strays:
        limit = max(len(ids) for at in strays for ids in trees[at])
        asked, allowed = [prompts[at] for at in strays], [trees[at] for at in strays]
        again = _greedy(model, asked, patches[strays], codec.end, limit, allowed)
        for at, ids in zip(strays, again, strict=True):
            held[at] = ids
    return [Answer(codec.text(said), codec.text(kept)) for said, kept in zip(free, held, strict=True)]


def _greedy(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    patches: torch.Tensor,
    end: int,
    limit: int,
    trees: Sequence[Sequence[tuple[int, ...]]] | None,
) -> list[tuple[int, ...]]:
    """Token ids of each answer with its end mark, at most `limit` of them."""
    import torch

    said: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode():
        ids = torch.tensor(prompts, device=model.device)
        seen = {picture_argument(model): patches.to(model.device)}
        cache = None
        for _ in range(limit):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **seen)
            logits, cache, seen = out.logits[:, -1], out.past_key_values, {}
            if trees is not None:
                logits = logits + _barrier(logits, said, trees, end)
            chosen = logits.argmax(dim=-1)
            for line, token in zip(said, chosen.tolist(), strict=True):
                if not line or line[-1] != end:
                    line.append(token)
            if all(line[-1] == end for line in said):
                break
            ids = chosen[:, None]
    return [tuple(line) for line in said]


def _barrier(
    logits: torch.Tensor, said: Sequence[Sequence[int]], trees: Sequence[Sequence[tuple[int, ...]]], end: int
) -> torch.Tensor:
    """0 where a token continues an allowed answer, minus infinity elsewhere: [n, vocabulary], beside the logits."""
    import torch

    wall = torch.full(logits.shape, float("-inf"), dtype=logits.dtype)
    for number, (line, tree) in enumerate(zip(said, trees, strict=True)):
        at = len(line)
        allowed = [ids[at] for ids in tree if len(ids) > at and list(ids[:at]) == list(line)]
        wall[number, allowed or [end]] = 0.0
    return wall.to(logits.device)
