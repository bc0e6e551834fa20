"""Draw synthetic thorax radiographs: ellipses for body, lungs, spine and heart, and one finding. No patient is real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.vlm.data.rows import Pictures

Floats = NDArray[np.float64]
FINDINGS = ("none", "consolidation", "effusion", "nodule", "enlarged heart")
_BODY, _LUNG, _SPINE, _HEART = 0.34, -0.24, 0.08, 0.20


@dataclass(frozen=True)
class Anatomy:
    """Shapes of one study each, in units of the picture's side; every array is float64 [n].

    Args:
        centre_x: middle of the thorax, 0..1.
        lung_width, lung_height: half axes of a lung.
        heart_width: half axis of the heart, already widened where the finding is an enlarged heart.
        finding: index into `FINDINGS`, int64 [n].
        side: -1 for the picture's left half, +1 for its right half, 0 where the finding has no side.
        finding_x, finding_y: middle of the finding.
        finding_size: Gaussian width (consolidation, nodule) or height of the fluid (effusion).
    """

    centre_x: Floats
    lung_width: Floats
    lung_height: Floats
    heart_width: Floats
    finding: NDArray[np.int64]
    side: NDArray[np.int64]
    finding_x: Floats
    finding_y: Floats
    finding_size: Floats


@dataclass(frozen=True)
class Scanner:
    """How a site's machine shows the same body.

    Args:
        contrast: factor around middle grey.
        offset: added brightness, of 1.
        noise: standard deviation of a pixel's noise, of 1.
    """

    contrast: float
    offset: float
    noise: float


def draw_anatomy(finding: NDArray[np.int64], patient: NDArray[np.int64], rng: np.random.Generator) -> Anatomy:
    """Draw bodies per patient and what changes between a patient's studies.

    Args:
        finding: int64 [n], index into `FINDINGS` for each study.
        patient: int64 [n], number of the patient of each study, 0..patients-1.
        rng: the only source of chance.
    """
    people, studies = int(patient.max()) + 1, len(patient)
    width = rng.uniform(0.13, 0.17, people)[patient]
    height = rng.uniform(0.25, 0.31, people)[patient]
    heart = rng.uniform(0.10, 0.125, people)[patient] * np.where(finding == 4, 1.65, 1.0)
    centre = 0.5 + rng.uniform(-0.03, 0.03, studies)
    has_side = (finding >= 1) & (finding <= 3)
    side = np.where(has_side, rng.choice(np.array([-1, 1]), studies), 0).astype(np.int64)
    y = rng.uniform(-0.6, 0.6, studies) * height + 0.5
    x = centre + side * (0.20 + rng.uniform(-0.35, 0.35, studies) * width)
    size = np.select(
        [finding == 1, finding == 2, finding == 3],
        [rng.uniform(0.075, 0.10, studies), rng.uniform(0.35, 0.6, studies) * height, np.full(studies, 0.035)],
        default=0.0,
    )
    return Anatomy(centre, width, height, heart, finding, side, x, y, size)


def render(anatomy: Anatomy, scanner: Scanner, *, side: int, rng: np.random.Generator) -> Pictures:
    """Draw all studies at once.

    Returns:
        uint8 [n, side, side, 3], grey.
    """
    axis = (np.arange(side) + 0.5) / side
    grid_y, grid_x = axis[None, :, None], axis[None, None, :]
    edge = 40.0 * side / 32

    def column(values: NDArray[Any]) -> NDArray[Any]:
        return values[:, None, None]

    def ellipse(x: Floats, y: float, half_x: Floats | float, half_y: Floats | float) -> Floats:
        distance = np.sqrt(((grid_x - x) / half_x) ** 2 + ((grid_y - y) / half_y) ** 2)
        filled: Floats = 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) * edge / 4, -40, 40)))
        return filled

    centre, width, height = column(anatomy.centre_x), column(anatomy.lung_width), column(anatomy.lung_height)
    left, right = ellipse(centre - 0.20, 0.5, width, height), ellipse(centre + 0.20, 0.5, width, height)
    image = 0.2 + _BODY * ellipse(centre, 0.52, 0.44, 0.5) + _LUNG * np.maximum(left, right)
    image += _SPINE * np.exp(-(((grid_x - centre) / 0.04) ** 2))
    image += _HEART * ellipse(centre + 0.05, 0.62, column(anatomy.heart_width), 0.15)
    image += _finding(anatomy, grid_x, grid_y, np.where(column(anatomy.side) < 0, left, right))
    image = (image - 0.45) * scanner.contrast + 0.45 + scanner.offset
    image *= rng.uniform(0.9, 1.1, (len(image), 1, 1))  # exposure differs from study to study
    image += rng.normal(0.0, scanner.noise, image.shape)
    grey = (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)


def _finding(anatomy: Anatomy, grid_x: Floats, grid_y: Floats, lung: Floats) -> Floats:
    """Added brightness of each study's finding, float64 [n, side, side]."""
    kind = anatomy.finding[:, None, None]
    x, y = anatomy.finding_x[:, None, None], anatomy.finding_y[:, None, None]
    size = np.maximum(anatomy.finding_size[:, None, None], 1e-3)
    blob = np.exp(-0.5 * (((grid_x - x) / size) ** 2 + ((grid_y - y) / size) ** 2))
    level = 0.5 + anatomy.lung_height[:, None, None] - size
    fluid = lung / (1.0 + np.exp(np.clip((level - grid_y) * 60, -40, 40)))
    added: Floats = np.where(kind == 1, 0.32 * blob, 0) + np.where(kind == 2, 0.30 * fluid, 0)
    return added + np.where(kind == 3, 0.45 * blob, 0)
