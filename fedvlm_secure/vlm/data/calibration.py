"""Public calibration phantoms: a body with a test object in it. The shipped base learns to see from these.

They share no finding, no question and no patient with the hospitals' phantoms; only the body's outline is drawn alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.vlm.data.rows import HospitalData, Pictures, Row

OBJECTS = ("bar", "disc", "ring", "wedge")
WHICH_OBJECT = "Which test object is in the picture: bar, disc, ring or wedge?"
OBJECT_SIDE = "Which half of the picture holds the test object: left or right?"
OBJECT_HEIGHT = "Is the test object in the upper or the lower half?"
OBJECT_TONE = "Is the test object bright or dark?"


def draw_calibration(*, pictures: int, image_size: int, rng: np.random.Generator) -> HospitalData:
    """Pictures with one test object each and four questions about it.

    Args:
        pictures: how many, at least 1.
        image_size: side in pixels.
        rng: seeded by the caller; the label must not be a hospital's.

    Returns:
        Four rows per picture, every row on the train side.
    """
    kind = rng.integers(0, len(OBJECTS), pictures)
    x = rng.uniform(0.22, 0.78, pictures)
    y = rng.uniform(0.22, 0.78, pictures)
    tone = rng.choice(np.array([-1.0, 1.0]), pictures)
    drawn = _render(kind, x, y, tone, image_size, rng)
    rows: list[Row] = []
    for number in range(pictures):
        asked = (
            (WHICH_OBJECT, OBJECTS[kind[number]], OBJECTS),
            (OBJECT_SIDE, "left" if x[number] < 0.5 else "right", ("left", "right")),
            (OBJECT_HEIGHT, "upper" if y[number] < 0.5 else "lower", ("lower", "upper")),
            (OBJECT_TONE, "bright" if tone[number] > 0 else "dark", ("bright", "dark")),
        )
        for question, answer, choices in asked:
            where = f"calibration picture {number}"
            rows.append(Row(question, answer, "vqa", f"public-{number}", number, where, "train", choices))
    return HospitalData(tuple(rows), drawn)


def _render(
    kind: NDArray[np.int64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    tone: NDArray[np.float64],
    side: int,
    rng: np.random.Generator,
) -> Pictures:
    axis = (np.arange(side) + 0.5) / side
    grid_y, grid_x = axis[None, :, None], axis[None, None, :]
    dx, dy = grid_x - x[:, None, None], grid_y - y[:, None, None]
    radius = rng.uniform(0.08, 0.15, (len(kind), 1, 1))
    distance = np.sqrt(dx**2 + dy**2)
    disc = distance < radius
    ring = disc & (distance > 0.55 * radius)
    bar = (np.abs(dx) < 0.3 * radius) & (np.abs(dy) < 1.3 * radius)
    wedge = ((np.abs(dx) < radius) & (np.abs(dy) < radius)) * (0.5 + 0.5 * dx / radius)
    shape = np.choose(kind[:, None, None], [bar, disc, ring, wedge])
    body = np.sqrt(((grid_x - 0.5) / 0.46) ** 2 + ((grid_y - 0.5) / 0.49) ** 2) < 1.0
    image = rng.uniform(0.15, 0.3, (len(kind), 1, 1)) + rng.uniform(0.1, 0.3, (len(kind), 1, 1)) * body
    image = image + tone[:, None, None] * rng.uniform(0.15, 0.4, (len(kind), 1, 1)) * shape
    image = image + rng.normal(0.0, 0.03, image.shape)
    grey = (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3)
