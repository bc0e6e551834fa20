"""What a hospital's data must fit: prompt, picture size, normalisation, answer vocabulary; part of the policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.rows import SCORED_TASKS, Row

Normalisation = Literal["unit", "standard"]
QUESTION = "{question}"
_SHOWN_ANSWER = 60


@dataclass(frozen=True)
class Contract:
    """The shared form of every question.

    Args:
        prompt: template that holds `{question}` exactly once.
        image_size: side of the square picture in pixels, a multiple of the model's patch.
        normalisation: `unit` maps 0..255 to -1..1; `standard` gives each picture mean 0 and standard deviation 1,
            which takes out a scanner's gain and offset.
        vocabulary: every answer that training may teach, sorted, without repetition.

    Raises:
        ValueError: a bound above does not hold.
    """

    prompt: str
    image_size: int
    normalisation: Normalisation
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.prompt.count(QUESTION) != 1:
            raise ValueError("contract: the prompt holds {question} exactly once")
        if not 1 <= self.image_size <= 4096:
            raise ValueError("contract: image_size is in 1..4096 pixels")
        if self.normalisation not in ("unit", "standard"):
            raise ValueError("contract: normalisation is unit or standard")
        if not self.vocabulary or list(self.vocabulary) != sorted(set(self.vocabulary)):
            raise ValueError("contract: the vocabulary is not empty, sorted, and names each answer once")
        if any(not answer.strip() for answer in self.vocabulary):
            raise ValueError("contract: an answer is not blank")

    def fill(self, question: str) -> str:
        """The prompt with the question in it. Braces in a question stay as they are."""
        return self.prompt.replace(QUESTION, question)


def derive_contract(
    rows: Iterable[Row],
    *,
    image_size: int = 32,
    normalisation: Normalisation = "unit",
    prompt: str = QUESTION,
    tasks: Iterable[str] = SCORED_TASKS,
) -> Contract:
    """The narrowest contract that these training rows fit: their answers are the vocabulary.

    Raises:
        DataError: NO_ROWS, no row of these tasks.
    """
    wanted = frozenset(tasks)
    answers = sorted({row.answer for row in rows if row.task in wanted})
    if not answers:
        raise DataError("NO_ROWS", f"no row of the tasks {', '.join(sorted(wanted))}", "name tasks that the data hold")
    return Contract(prompt, image_size, normalisation, tuple(answers))


def check_vocabulary(contract: Contract, rows: Iterable[Row]) -> None:
    """Refuse training rows whose answer the consortium did not agree on.

    Raises:
        DataError: ANSWER_OUTSIDE_VOCABULARY with file and line of the first such row.
    """
    allowed = frozenset(contract.vocabulary)
    for row in rows:
        if row.answer not in allowed:
            shown = row.answer if len(row.answer) <= _SHOWN_ANSWER else row.answer[:_SHOWN_ANSWER] + "..."
            raise DataError(
                "ANSWER_OUTSIDE_VOCABULARY",
                f"{row.where}: the answer {shown!r} is not one of the contract's {len(contract.vocabulary)} answers",
                "correct the row, or agree on a policy whose vocabulary holds this answer",
            )
