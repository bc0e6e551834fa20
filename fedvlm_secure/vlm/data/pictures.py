"""Decode, check and shrink a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.errors import DataError

MAX_PIXELS = 64_000_000


def read_picture(path: Path, *, side: int, where: str) -> NDArray[np.uint8]:
    """Decode one image file to RGB and shrink it to a square.

    Args:
        path: an existing file in a format that Pillow reads (PNG, JPEG and others).
        side: pixels; the picture is squeezed to side x side, its aspect ratio is not kept.
        where: file and line for the error.

    Returns:
        uint8 [side, side, 3].

    Raises:
        DataError: IMAGE_MISSING or IMAGE_UNREADABLE.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return shrink(image, side=side, where=where)
    except FileNotFoundError as error:
        raise DataError(
            "IMAGE_MISSING", f"{where}: the image file does not exist", "correct the field image"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            "IMAGE_UNREADABLE",
            f"{where}: the image file cannot be decoded ({type(error).__name__})",
            "replace the file by a whole PNG or JPEG, or leave out the row",
        ) from error


def path_inside(folder: Path, image: str, *, where: str) -> Path:
    """The image's path, refused when it leaves the hospital's folder, also through a link.

    Args:
        folder: resolved.
        image: relative path as the row gives it.
        where: file and line for the error.

    Raises:
        DataError: PATH_ESCAPES.
    """
    try:
        path = (folder / image).resolve()
    except (OSError, ValueError) as error:
        raise DataError("PATH_ESCAPES", f"{where}: the image path is not usable", "correct the image path") from error
    if not path.is_relative_to(folder):
        raise DataError(
            "PATH_ESCAPES", f"{where}: the image path leaves the folder of the data", "keep images beside it"
        )
    return path


def shrink(image: Any, *, side: int, where: str) -> NDArray[np.uint8]:
    """A Pillow image as uint8 [side, side, 3]; 16-bit grey is scaled to 8 bits by its own range.

    Raises:
        DataError: IMAGE_UNREADABLE when the image has more than 64 million pixels.
        OSError: the file's pixels cannot be decoded.
    """
    from PIL import Image

    if image.width * image.height > MAX_PIXELS:
        raise DataError("IMAGE_UNREADABLE", f"{where}: the image has more than {MAX_PIXELS} pixels", "make it smaller")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        image = Image.fromarray(((values - low) * (255.0 / max(high - low, 1.0))).astype(np.uint8))
    # Pillow widens the bilinear filter when it shrinks, so nothing is skipped
    small = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.uint8)
