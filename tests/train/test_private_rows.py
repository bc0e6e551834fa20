"""The patient is the unit: of drawing, of the cap, and of a chunk."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlm_secure.train.rows_of_patients import RowsOfPatients, in_chunks
from fedvlm_secure.vlm.data.rows import Row
from tests.support.entropy import entropy


def rows_of(*counts: int) -> list[Row]:
    """Patient number i has counts[i] rows; the rows of all patients are mixed."""
    rows = [
        Row("q", "a", "vqa", f"p{patient}", 0, "made up") for patient, many in enumerate(counts) for _ in range(many)
    ]
    return [rows[number] for number in np.random.default_rng(1).permutation(len(rows))]


def test_ten_rows_make_a_patient_no_likelier_to_be_drawn() -> None:
    rows = rows_of(10, 1)
    people, source = RowsOfPatients(rows), entropy("draw")
    often = {"p0": 0, "p1": 0}
    for _ in range(2000):
        for numbers in people.draw(0.3, 10, source):
            often[rows[numbers[0]].patient] += 1
    # 2000 coins of 0.3: mean 600, standard deviation 20.5
    assert all(abs(count - 600) < 82 for count in often.values())


def test_a_cap_takes_each_row_equally_often_and_never_another_patients() -> None:
    rows = rows_of(5, 3)
    people, source = RowsOfPatients(rows), entropy("cap")
    seen = np.zeros(len(rows))
    for _ in range(2000):
        for numbers in people.draw(1.0, 2, source):
            assert len(set(numbers.tolist())) == 2
            assert len({rows[number].patient for number in numbers}) == 1
            seen[numbers] += 1
    wanted = np.array([2000 * 2 / (5 if row.patient == "p0" else 3) for row in rows])
    assert np.all(np.abs(seen - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted / 2000)))


def test_nobody_may_be_drawn_and_everybody() -> None:
    people = RowsOfPatients(rows_of(2, 2, 2))
    assert people.patients == 3
    assert people.draw(1e-12, 2, entropy("nobody")) == ()
    assert len(people.draw(1.0, 2, entropy("everybody"))) == 3


def test_chunks_hold_whole_patients_in_order_and_no_more_rows_than_allowed() -> None:
    drawn = [np.arange(many) for many in (3, 2, 4, 1, 1, 4)]
    chunks = in_chunks(drawn, 5)
    assert [[len(numbers) for numbers in chunk] for chunk in chunks] == [[3, 2], [4, 1], [1, 4]]
    assert in_chunks([], 5) == []
    with pytest.raises(ValueError, match="fit"):
        in_chunks(drawn, 3)


def test_a_hospital_without_rows_does_not_train() -> None:
    with pytest.raises(ValueError, match="rows"):
        RowsOfPatients([])
