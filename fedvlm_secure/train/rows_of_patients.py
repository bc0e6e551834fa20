"""Whose rows are whose: the unit of sampling, clipping and accounting is the patient, never the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlm_secure.dp.sampling import poisson_sample
from fedvlm_secure.dp.streams import KEY_BYTES, stream
from fedvlm_secure.types import Entropy, Int64Vector, Secret
from fedvlm_secure.vlm.data.rows import Row


class RowsOfPatients:
    """The training rows of a hospital, grouped by patient.

    Args:
        rows: training rows, at least one.

    Raises:
        ValueError: no rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise ValueError("training needs rows")
        groups: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(row.patient, []).append(number)
        self._groups = tuple(np.array(numbers, dtype=np.int64) for numbers in groups.values())
        self._rows = len(rows)

    @property
    def patients(self) -> int:
        """How many there are; under DP the number stays here."""
        return len(self._groups)

    def draw(self, sampling_rate: float, cap: int, entropy: Entropy) -> tuple[Int64Vector, ...]:
        """The patients of one step, each by a coin of its own, with up to `cap` of its rows chosen at random.

        Args:
            sampling_rate: q in (0, 1].
            cap: rows per patient, at least 1.
            entropy: fresh bytes of this hospital, never the policy's seed: who could predict the draw would undo
                what accounting gains by it.

        Returns:
            Row numbers, int64 [1..cap], of each drawn patient; nobody may be drawn.
        """
        if cap < 1:
            raise ValueError("cap is at least 1")
        drawn = poisson_sample(self.patients, sampling_rate, Secret(entropy.bytes(KEY_BYTES)))
        marks = stream(Secret(entropy.bytes(KEY_BYTES)), "rows").take(self._rows)
        return tuple(_fewest(self._groups[patient], marks, cap) for patient in drawn)


def _fewest(numbers: Int64Vector, marks: np.ndarray[tuple[int], np.dtype[np.uint64]], cap: int) -> Int64Vector:
    """The `cap` rows with the lowest marks: a uniform subset."""
    if len(numbers) <= cap:
        return numbers
    chosen: Int64Vector = numbers[np.argsort(marks[numbers], kind="stable")[:cap]]
    return chosen


def in_chunks(drawn: Sequence[Int64Vector], microbatch: int) -> list[tuple[Int64Vector, ...]]:
    """Cut one step's patients into chunks of at most `microbatch` rows; no patient is divided.

    Raises:
        ValueError: one patient has more rows than `microbatch`.
    """
    chunks: list[list[Int64Vector]] = []
    held = microbatch + 1
    for numbers in drawn:
        if len(numbers) > microbatch:
            raise ValueError("a patient's rows do not fit into one chunk")
        if held + len(numbers) > microbatch:
            chunks.append([])
            held = 0
        chunks[-1].append(numbers)
        held += len(numbers)
    return [tuple(chunk) for chunk in chunks]
