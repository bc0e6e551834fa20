"""Pictures as a model takes them: normalised, and cut into patches or whole with channels first."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.vlm.contract import Normalisation
from fedvlm_secure.vlm.data.rows import Pictures

if TYPE_CHECKING:
    import torch

_LEAST_DEVIATION = 8.0  # of 255: an empty picture stays quiet instead of showing amplified noise


def picture_patches(pictures: Pictures, *, patch: int, normalisation: Normalisation) -> torch.Tensor:
    """Cut pictures into patches, in FuyuImageProcessor's order.

    Args:
        pictures: uint8 [n, side, side, 3], the side a multiple of `patch`.
        patch: pixels.
        normalisation: see `Contract`.

    Returns:
        float32 [n, (side / patch) ** 2, patch * patch * 3].
    """
    import torch

    values = _normalised(pictures, normalisation)
    count, side = pictures.shape[0], pictures.shape[1]
    across = side // patch
    cut = values.reshape(count, across, patch, across, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return torch.from_numpy(np.ascontiguousarray(cut).reshape(count, across * across, patch * patch * 3))


def picture_channels(pictures: Pictures, *, normalisation: Normalisation) -> torch.Tensor:
    """Whole pictures for a vision encoder.

    Args:
        pictures: uint8 [n, side, side, 3].
        normalisation: see `Contract`; `unit` is mean and deviation 0.5 of SigLIP's processor.

    Returns:
        float32 [n, 3, side, side].
    """
    import torch

    return torch.from_numpy(np.ascontiguousarray(_normalised(pictures, normalisation).transpose(0, 3, 1, 2)))


def picture_argument(model: Any) -> str:
    """The name of forward's picture argument: `image_patches` up to transformers 5.17, `pixel_values` later."""
    named = inspect.signature(model.forward).parameters
    return "pixel_values" if "pixel_values" in named else "image_patches"


def _normalised(pictures: Pictures, normalisation: Normalisation) -> NDArray[np.float32]:
    values = pictures.astype(np.float32)
    if normalisation == "unit":
        return values / np.float32(127.5) - np.float32(1.0)
    mean = values.mean(axis=(1, 2, 3), keepdims=True)
    deviation = values.std(axis=(1, 2, 3), keepdims=True)
    scaled: NDArray[np.float32] = (values - mean) / np.maximum(deviation, _LEAST_DEVIATION)
    return scaled
