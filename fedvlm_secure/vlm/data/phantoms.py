"""Hospitals made of phantoms: seeded patients with several studies, sites that differ, questions of all task kinds.

The rows have the same form as a real hospital's. Nothing here stands for a real person or a real disease rate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.vlm.data.rows import HospitalData, Row
from fedvlm_secure.vlm.data.thorax import FINDINGS, Anatomy, Scanner, draw_anatomy, render

WHICH_FINDING = "Which finding does this radiograph show: none, consolidation, effusion, nodule or enlarged heart?"
HEART = "Is the heart enlarged?"
FLUID = "Is there fluid at the base of a lung?"
SIDE = "Which side of the picture shows the finding: left, right or neither?"
REPORT = "Write a short report for this radiograph."
BOX = "Where is the finding?"
YES_NO = ("no", "yes")
SIDES = ("left", "neither", "right")
_MAX_STUDIES = 3


@dataclass(frozen=True)
class PhantomSite:
    """One hospital's machine and case mix.

    Args:
        scanner: contrast, brightness and noise of its pictures.
        disease_mix: share of each of `FINDINGS`, five numbers that sum to 1.
    """

    scanner: Scanner
    disease_mix: tuple[float, float, float, float, float]


SITES: dict[str, PhantomSite] = {
    "coast": PhantomSite(Scanner(contrast=1.0, offset=0.0, noise=0.03), (0.30, 0.25, 0.20, 0.10, 0.15)),
    "valley": PhantomSite(Scanner(contrast=0.75, offset=0.08, noise=0.04), (0.25, 0.10, 0.20, 0.25, 0.20)),
    "harbour": PhantomSite(Scanner(contrast=1.2, offset=-0.06, noise=0.05), (0.20, 0.20, 0.10, 0.20, 0.30)),
    "hills": PhantomSite(Scanner(contrast=0.9, offset=0.04, noise=0.06), (0.35, 0.15, 0.25, 0.15, 0.10)),
}


def draw_hospital(
    site: PhantomSite, *, patients: int, image_size: int, name: str, rng: np.random.Generator
) -> HospitalData:
    """One hospital's phantoms.

    Each patient has 1 to 3 studies, mostly with the same finding; each study gets one classification, two VQA and
    one caption row, and one grounding row where the finding has a place.

    Args:
        site: machine and case mix.
        patients: at least 1.
        image_size: side of the pictures in pixels, 16 or more.
        name: stands in the patients' pseudonyms and in `where`, so that two hospitals share no patient.
        rng: seeded by the caller from the run's seed and the hospital's label.

    Returns:
        Rows without a split (a patient is kept together by `split_rows`) and their pictures.

    Raises:
        ValueError: `patients` or `image_size` below its bound.
    """
    if patients < 1 or image_size < 16:
        raise ValueError("phantoms: at least 1 patient and 16 pixels")
    studies = rng.integers(1, _MAX_STUDIES + 1, patients)
    patient = np.repeat(np.arange(patients), studies)
    mix = np.array(site.disease_mix)
    of_patient = rng.choice(len(FINDINGS), patients, p=mix)
    changed = rng.random(len(patient)) < 0.2
    finding = np.where(changed, rng.choice(len(FINDINGS), len(patient), p=mix), of_patient[patient]).astype(np.int64)
    anatomy = draw_anatomy(finding, patient, rng)
    pictures = render(anatomy, site.scanner, side=image_size, rng=rng)
    asked = rng.permuted(np.tile(np.arange(3), (len(patient), 1)), axis=1)[:, :2]
    rows = [row for study in range(len(patient)) for row in _rows(study, patient, anatomy, asked[study], name)]
    return HospitalData(tuple(rows), pictures)


def contract_rows() -> list[Row]:
    """Every scored question with each allowed answer, about no picture: what a contract over phantoms is made of."""
    asked = (
        ("classification", WHICH_FINDING, tuple(sorted(FINDINGS))),
        ("vqa", HEART, YES_NO),
        ("vqa", FLUID, YES_NO),
        ("vqa", SIDE, SIDES),
    )
    return [
        Row(question, answer, task, "", 0, "phantom contract", "train", choices)
        for task, question, choices in asked
        for answer in choices
    ]


def _rows(study: int, patient: NDArray[np.int64], anatomy: Anatomy, asked: NDArray[np.int64], name: str) -> list[Row]:
    finding = FINDINGS[anatomy.finding[study]]
    side = ("left", "neither", "right")[anatomy.side[study] + 1]
    questions = (
        (HEART, "yes" if finding == "enlarged heart" else "no", YES_NO),
        (FLUID, "yes" if finding == "effusion" else "no", YES_NO),
        (SIDE, side, SIDES),
    )
    made: list[tuple[str, str, str, tuple[str, ...]]] = [
        ("classification", WHICH_FINDING, finding, tuple(sorted(FINDINGS))),
        *(("vqa", *questions[number]) for number in asked),
        ("caption", REPORT, _report(finding, side), ()),
    ]
    if side != "neither":
        made.append(("grounding", BOX, json.dumps([_box(anatomy, study)]), ()))
    return [
        Row(question, answer, task, f"{name}-{patient[study]}", study, f"{name} study {study}", None, choices)
        for task, question, answer, choices in made
    ]


def _report(finding: str, side: str) -> str:
    if finding == "none":
        return "Phantom radiograph. No finding."
    place = "" if side == "neither" else f" on the {side} of the picture"
    return f"Phantom radiograph with {finding}{place}."


def _box(anatomy: Anatomy, study: int) -> list[int]:
    """[x1, y1, x2, y2] in thousandths of width and height."""
    x, y = anatomy.finding_x[study], anatomy.finding_y[study]
    half_x = half_y = 2.0 * anatomy.finding_size[study]
    if FINDINGS[anatomy.finding[study]] == "effusion":
        half_x, half_y = anatomy.lung_width[study], anatomy.finding_size[study] / 2
        x = anatomy.centre_x[study] + 0.20 * anatomy.side[study]
        y = 0.5 + anatomy.lung_height[study] - half_y
    corners = np.clip(np.array([x - half_x, y - half_y, x + half_x, y + half_y]), 0.0, 1.0)
    return [int(value) for value in np.rint(corners * 1000)]
