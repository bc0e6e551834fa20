"""A device that is not the CPU and computes with it: what forgets to move a tensor fails here as on a GPU.

Tensors on it carry a CPU tensor inside. An operation may not mix them with CPU tensors, and numpy cannot read them;
numbers are those of the CPU, so that a round there can be compared with a round here bit by bit. It is torch's own hook
for backends in Python (PrivateUse1). `FakeTensorMode` with a device `cuda` would be the usual choice, but it cannot
carry a step here: a torch built without CUDA has no device guard that autograd could ask for, and a fake tensor has no
numbers for `.item()`, `.numpy()` and the choice of the next token.

What it does not show: kernels that are missing or behave otherwise on a real device, streams, and memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

_NAME = "pretended"
HOOK = "_setup_privateuseone_for_python_backend"
CAN_PRETEND = hasattr(backend_registration, HOOK)
"""Older torch has no such hook."""

_aten = torch.ops.aten
_CHANGES_OF_PLACE = {_aten.to.device, _aten.to.dtype_layout, _aten._to_copy.default}
_MOVES = {_aten.copy_.default, *_CHANGES_OF_PLACE}
# As on CUDA: these take their index tensors from either side.
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}


@cache
def pretend_device() -> str:
    """Register the device, once a process, and name it."""
    getattr(backend_registration, HOOK)(_NAME)
    return f"{_NAME}:0"


class There(torch.Tensor):
    """A tensor on the pretended device; `inner` holds its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=pretend_device(),
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"There({self.inner!r})"

    def tolist(self) -> Any:
        """As on a GPU: waits for the values and brings them here."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """While it is open, tensors can be moved to the pretended device and made there."""

    def __enter__(self) -> PretendedDevice:
        pretend_device()
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is made here and then moved
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(self._lifted)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    there = _is_result_there(func, args, kwargs)
    inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if not there:
        return out
    if func in _CHANGES_OF_PLACE:  # between the sides nothing is shared, so there is no alias to correct
        return args[0] if isinstance(args[0], There) and out is args[0].inner else There(out)
    out = tree_map(lambda value: There(value) if type(value) is torch.Tensor else value, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


def _inner(value: Any) -> Any:
    """What the CPU computes with."""
    if isinstance(value, There):
        return value.inner
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value


def _is_result_there(func: Any, args: Any, kwargs: Any) -> bool:
    """Where the result lies.

    Raises:
        RuntimeError: tensors of both sides in one operation that takes them from one.
    """
    values = tree_flatten((args, kwargs))[0]
    named = [value for value in values if isinstance(value, torch.device)]
    if func in _MOVES or named:
        return named[-1].type == _NAME if named else isinstance(args[0], There)
    judged = args[0] if func in _INDEXED else values
    tensors = [value for value in tree_flatten(judged)[0] if isinstance(value, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    here = [tensor for tensor in tensors if not isinstance(tensor, There)]
    if there and any(tensor.ndim for tensor in here):
        raise RuntimeError(f"{func}: expected all tensors on one device, found {_NAME} and cpu")
    return bool(there)
