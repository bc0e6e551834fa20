"""Train and test sides that never share a patient."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedvlm_secure.errors import DataError
from fedvlm_secure.vlm.data.rows import Row


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to be scored on; no patient is in both."""

    train: tuple[Row, ...]
    test: tuple[Row, ...]


def split_rows(rows: Sequence[Row], *, key: bytes, test_share: float = 0.2) -> Split:
    """Follow the rows' own split where they carry one; else draw by a keyed hash of the patient.

    The keyed hash (HMAC-SHA-256) puts a patient on the same side whatever the order of the rows, and says nothing
    about the side to who lacks the key.

    Raises:
        DataError: PATIENT_ON_BOTH_SIDES, SPLIT_PARTLY_GIVEN, or EMPTY_SPLIT, with file and line and no patient id.
        ValueError: `test_share` outside 0..1.
    """
    if not 0.0 < test_share < 1.0:
        raise ValueError("test_share is between 0 and 1")
    given = [row for row in rows if row.split is not None]
    if given and len(given) < len(rows):
        first = next(row for row in rows if row.split is None)
        raise DataError(
            "SPLIT_PARTLY_GIVEN",
            f"{first.where}: no split, though {len(given)} of {len(rows)} rows carry one",
            "give every row the field split (train or test), or none",
        )
    if given:
        _refuse_patient_on_both_sides(rows)
        sides = [row.split == "test" for row in rows]
    else:
        sides = [_is_test(row.patient, key, test_share) for row in rows]
    train = tuple(row for row, is_test in zip(rows, sides, strict=True) if not is_test)
    test = tuple(row for row, is_test in zip(rows, sides, strict=True) if is_test)
    if not train or not test:
        side = "train" if not train else "test"
        raise DataError(
            "EMPTY_SPLIT", f"the {side} side has no row out of {len(rows)}", "more patients are needed on both sides"
        )
    return Split(train, test)


def _is_test(patient: str, key: bytes, test_share: float) -> bool:
    tag = hmac.new(key, patient.encode("utf-8"), hashlib.sha256).digest()
    return int.from_bytes(tag[:8], "big") < int(test_share * 2**64)


def _refuse_patient_on_both_sides(rows: Iterable[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        earlier = first.setdefault(row.patient, row)
        if earlier.split != row.split:
            raise DataError(
                "PATIENT_ON_BOTH_SIDES",
                f"{earlier.where} ({earlier.split}) and {row.where} ({row.split}) are rows of one patient",
                "put all rows of a patient on one side; a score over known patients is no score",
            )


def require_patients(rows: Iterable[Row], *, minimum: int) -> int:
    """Count distinct patients and refuse a hospital that is too small to take part.

    Returns:
        The number of patients.

    Raises:
        DataError: TOO_FEW_PATIENTS.
    """
    patients = len({row.patient for row in rows})
    if patients < minimum:
        raise DataError(
            "TOO_FEW_PATIENTS",
            f"{patients} patients to train on, the policy asks for at least {minimum}",
            "add patients, or leave this run; with few patients the update says too much about each",
        )
    return patients
