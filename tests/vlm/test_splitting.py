"""No patient is on two sides, whatever says which side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.rows import Row
from fedvlm_secure.vlm.data.splitting import require_patients, split_rows


def row(number: int, patient: str, split: str | None = None) -> Row:
    return Row("Q?", "yes", "vqa", patient, 0, f"h.jsonl:{number}", split)


@given(st.lists(st.integers(0, 59), max_size=120), st.binary(min_size=1, max_size=32))
def test_hashed_split_never_parts_a_patient(again: list[int], key: bytes) -> None:
    rows = [row(number, f"p{patient}") for number, patient in enumerate([*range(60), *again])]
    split = split_rows(rows, key=key, test_share=0.5)
    assert not {r.patient for r in split.train} & {r.patient for r in split.test}
    assert sorted([*split.train, *split.test], key=lambda r: int(r.where[8:])) == rows


def test_hashed_split_takes_about_its_share_and_depends_on_the_key() -> None:
    rows = [row(number, f"p{number}") for number in range(2000)]
    one, other = split_rows(rows, key=b"a"), split_rows(rows, key=b"b")
    assert 320 <= len(one.test) <= 480
    assert one.test != other.test


def test_side_of_a_patient_does_not_depend_on_the_order_of_rows() -> None:
    rows = [row(number, f"p{number}") for number in range(50)]
    assert set(split_rows(rows, key=b"a").test) == set(split_rows(rows[::-1], key=b"a").test)


def test_given_split_is_followed() -> None:
    rows = [row(1, "a", "train"), row(2, "b", "test"), row(3, "a", "train")]
    split = split_rows(rows, key=b"a")
    assert (split.train, split.test) == ((rows[0], rows[2]), (rows[1],))


def test_patient_on_both_sides_is_refused_by_lines_and_not_by_name() -> None:
    rows = [row(1, "mrs-secret", "train"), row(2, "b", "test"), row(3, "mrs-secret", "test")]
    with pytest.raises(DataError) as caught:
        split_rows(rows, key=b"a")
    assert caught.value.code == "PATIENT_ON_BOTH_SIDES"
    assert "h.jsonl:1" in caught.value.cause
    assert "h.jsonl:3" in caught.value.cause
    assert "secret" not in str(caught.value) + repr(rows)


def test_split_given_for_some_rows_only_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        split_rows([row(1, "a", "train"), row(2, "b")], key=b"a")
    assert (caught.value.code, caught.value.cause[:10]) == ("SPLIT_PARTLY_GIVEN", "h.jsonl:2:")


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        split_rows([row(1, "a", "train")], key=b"a")
    assert caught.value.code == "EMPTY_SPLIT"


def test_patients_are_counted_and_not_rows() -> None:
    rows = [row(number, f"p{number % 3}") for number in range(30)]
    assert require_patients(rows, minimum=3) == 3
    with pytest.raises(DataError) as caught:
        require_patients(rows, minimum=4)
    assert caught.value.code == "TOO_FEW_PATIENTS"
