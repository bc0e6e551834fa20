"""The processor that a hospital's model computes on: found, tried, and its faults named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedvlm_secure.errors import ModelError, PolicyError

if TYPE_CHECKING:
    import torch

_TRIED_ROWS, _TRIED_WIDTH = 4, 8
_FAULTS = ("CUDA error", "HIP error", "MPS backend")
"""How torch's text begins for a fault of device or driver; only some of these have a type of their own."""


def prepare_device(asked: str) -> torch.device:
    """Find a device, try a small gradient on it, and hold its convolutions to float32.

    Args:
        asked: `auto` (the first CUDA device, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Returns:
        With an index where it is a CUDA device.

    Raises:
        PolicyError: DEVICE: it is not there, or does not compute.
    """
    import torch

    kind, _, number = asked.partition(":")
    seen = cuda_devices()
    if kind == "auto":
        kind = "cuda" if seen else "cpu"
    if kind == "cuda" and int(number or 0) >= seen:
        built = "" if torch.version.cuda or torch.version.hip else ", which is built without CUDA,"
        raise PolicyError(
            "DEVICE",
            f"device: {asked}, but torch {torch.__version__}{built} sees {seen} CUDA devices",
            "install the driver and a CUDA build of torch, or use device: cpu",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise PolicyError("DEVICE", f"device: mps, but torch {torch.__version__} sees none", "use device: cpu")
    device = torch.device(kind, int(number or 0)) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        # TF32 keeps ten bits of a convolution's inputs; the policy's precision is float32, as in matrix products
        torch.backends.cudnn.allow_tf32 = False
    if kind != "cpu":
        _try(device, asked)
    return device


def cuda_devices() -> int:
    """How many CUDA devices this torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def free_and_whole_bytes(device: torch.device) -> tuple[int, int] | None:
    """Memory that is free now, and all of it; None where the device has none of its own."""
    import torch

    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None


@contextmanager
def device_faults(device: torch.device) -> Iterator[None]:
    """Turn a device's own failures in what follows into one error that says what to do.

    Raises:
        ModelError: DEVICE_MEMORY, or DEVICE_FAILED for a fault of device or driver and for an operation it lacks.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "DEVICE_MEMORY",
            f"{device} has too little memory: {_first_sentences(error)}",
            "under dp_sgd lower microbatch in node.yaml; end other work on the device, or use another one",
        ) from error
    except RuntimeError as error:
        of_device = isinstance(error, NotImplementedError) or str(error).startswith(_FAULTS)
        if device.type == "cpu" or not of_device:
            raise
        raise ModelError(
            "DEVICE_FAILED",
            f"{device} failed: {_first_sentences(error)}",
            "look at the driver's log and run `fedvlm-node doctor`; device: cpu goes on without it",
        ) from error


def _try(device: torch.device, asked: str) -> None:
    """What every step needs: a copy there, a gradient of each row, a number back."""
    import torch

    try:
        rows = torch.arange(_TRIED_ROWS * _TRIED_WIDTH, dtype=torch.float32).reshape(_TRIED_ROWS, -1)
        leaf = rows.to(device).requires_grad_(True)
        torch.einsum("ri,rj->rij", leaf, leaf).sum().backward()  # type: ignore[no-untyped-call]
        wanted = 2 * rows.sum(dim=1, keepdim=True).expand_as(rows)
        computes = leaf.grad is not None and torch.equal(leaf.grad.to("cpu"), wanted)
    except (RuntimeError, AssertionError) as error:  # torch says with the latter that it is built without the device
        raise _unusable(asked, _first_sentences(error)) from error
    if not computes:
        raise _unusable(asked, "a gradient that it computes is wrong")


def _unusable(asked: str, reason: str) -> PolicyError:
    return PolicyError(
        "DEVICE", f"device: {asked} is there and does not work: {reason}", "look at its driver, or use device: cpu"
    )


def _first_sentences(error: BaseException) -> str:
    """Without the advice on environment variables and the lines about processes that torch adds."""
    return (str(error) or type(error).__name__).split("\n")[0].split(" GPU ")[0].strip()[:200]
