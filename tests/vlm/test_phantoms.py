"""Phantom hospitals: seeded, different, with patients, and answers that the pictures show."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedvlm_secure.vlm.contract import derive_contract
from fedvlm_secure.vlm.data import phantoms
from fedvlm_secure.vlm.data.calibration import draw_calibration
from fedvlm_secure.vlm.data.phantoms import SITES, contract_rows, draw_hospital
from fedvlm_secure.vlm.data.rows import HospitalData


def hospital(site: str = "coast", patients: int = 600, seed: int = 1) -> HospitalData:
    return draw_hospital(
        SITES[site], patients=patients, image_size=32, name=site, rng=np.random.default_rng([seed, len(site)])
    )


def test_same_seed_same_hospital_and_another_seed_another() -> None:
    one, same, other = hospital(), hospital(), hospital(seed=2)
    assert one.rows == same.rows
    assert np.array_equal(one.pictures, same.pictures)
    assert not np.array_equal(one.pictures[:100], other.pictures[:100])


def test_a_hospital_has_600_patients_with_several_studies_and_all_tasks() -> None:
    data = hospital()
    assert data.patients() == 600
    assert 2 * 600 * 0.9 < len(data.pictures) < 2 * 600 * 1.1
    assert {row.task for row in data.rows} == {"vqa", "classification", "caption", "grounding"}


def test_two_hospitals_share_no_patient_and_differ_in_mix_and_brightness() -> None:
    coast, valley = hospital("coast"), hospital("valley")
    assert not {row.patient for row in coast.rows} & {row.patient for row in valley.rows}
    shares = [
        np.mean([row.answer == "nodule" for row in data.rows if row.task == "classification"])
        for data in (coast, valley)
    ]
    assert shares[1] - shares[0] > 0.05
    assert coast.pictures.std() - valley.pictures.std() > 5


def test_answers_are_consistent_and_within_the_contract() -> None:
    data = hospital(patients=100)
    contract = derive_contract(contract_rows())
    finding = {row.picture: row.answer for row in data.rows if row.task == "classification"}
    for row in data.rows:
        if row.task in ("vqa", "classification"):
            assert row.answer in contract.vocabulary
            assert row.answer in row.choices
        if row.question == phantoms.HEART:
            assert (row.answer == "yes") == (finding[row.picture] == "enlarged heart")
        if row.question == phantoms.FLUID:
            assert (row.answer == "yes") == (finding[row.picture] == "effusion")


def test_boxes_lie_in_the_picture_on_the_side_that_the_answer_names() -> None:
    data = hospital(patients=200)
    sides = {row.picture: row.answer for row in data.rows if row.question == phantoms.SIDE}
    checked = 0
    for row in data.rows:
        if row.task == "grounding":
            ((x1, y1, x2, y2),) = json.loads(row.answer)
            assert 0 <= x1 < x2 <= 1000
            assert 0 <= y1 < y2 <= 1000
            if row.picture in sides:
                assert sides[row.picture] == ("left" if x1 + x2 < 1000 else "right")
                checked += 1
    assert checked > 50


def test_the_finding_is_in_the_pixels_inside_its_box() -> None:
    data = hospital(patients=400)
    normal = [row.picture for row in data.rows if row.task == "classification" and row.answer == "none"]
    mean = data.pictures[normal, :, :, 0].mean(axis=0)
    brighter = []
    for row in data.rows:
        if row.task == "grounding":
            ((x1, y1, x2, y2),) = (np.array(json.loads(row.answer)) * 32) // 1000
            inside = (slice(y1, max(y2, y1 + 1)), slice(x1, max(x2, x1 + 1)))
            brighter.append(data.pictures[row.picture, :, :, 0][inside].mean() - mean[inside].mean())
    assert np.mean(np.array(brighter) > 0) > 0.95


def test_public_phantoms_share_no_question_answer_or_patient_with_hospitals() -> None:
    public = draw_calibration(pictures=50, image_size=32, rng=np.random.default_rng(1))
    hospitals = hospital(patients=50)
    assert not {row.question for row in public.rows} & {row.question for row in hospitals.rows}
    assert not {row.patient for row in public.rows} & {row.patient for row in hospitals.rows}
    assert all(row.split == "train" for row in public.rows)


@pytest.mark.parametrize(("patients", "size"), [(0, 32), (5, 8)])
def test_bounds_are_checked(patients: int, size: int) -> None:
    with pytest.raises(ValueError, match="phantoms"):
        draw_hospital(SITES["coast"], patients=patients, image_size=size, name="x", rng=np.random.default_rng(1))
