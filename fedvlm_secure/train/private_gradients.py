"""The gradient of every row by itself, through Opacus hooks on the unwrapped model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedvlm_secure.errors import ModelError
from fedvlm_secure.train.batches import answer_loss, make_batch, pairs_of
from fedvlm_secure.vlm.adapters import TunedModel
from fedvlm_secure.vlm.data.rows import Pictures, Row
from fedvlm_secure.vlm.tasks.patches import picture_argument
from fedvlm_secure.vlm.tasks.prompts import PromptCodec

if TYPE_CHECKING:
    import torch

RowMatrix = NDArray[np.float32]
_PIECE_BYTES = 4 << 20
GradSampler = Callable[[Any, "list[torch.Tensor]", "torch.Tensor"], "dict[Any, torch.Tensor]"]


class RowLoss:
    """Summed cross entropy of the answers to some rows, at the model's present state.

    Args:
        tuned, codec: how a row becomes inputs.
        pictures: uint8 [n, side, side, 3] that the rows point into.
    """

    def __init__(self, tuned: TunedModel, codec: PromptCodec, pictures: Pictures) -> None:
        self.tuned = tuned
        self._codec, self._pictures = codec, pictures
        self._argument = picture_argument(tuned.model)

    def __call__(self, rows: Sequence[Row]) -> torch.Tensor:
        """A scalar in nats; a sum over rows, so that each row's gradient is independent of who else was drawn."""
        seen = self._pictures[[row.picture for row in rows]]
        batch = make_batch(self._codec, pairs_of(rows), seen)
        return answer_loss(self.tuned.model, batch, self._codec.pixels(seen), self._argument)


class RowGradients:
    """Per-row gradients while the context is open; the model is in training mode meanwhile, as hooks demand.

    Args:
        loss: of some rows.

    Raises:
        ModelError: on entering, DP_STALE_PARAMETERS or DP_LAYER_REFUSED.
    """

    def __init__(self, loss: RowLoss) -> None:
        self._loss, self._tuned = loss, loss.tuned
        self._hooks: Any = None
        self._piece: RowMatrix = np.empty((0, self._tuned.layout.dimension), dtype=np.float32)

    def __enter__(self) -> RowGradients:
        refuse_stale(self._tuned)
        try:
            self._hooks = _hooks()(self._tuned.model, loss_reduction="sum", strict=True)
        except NotImplementedError as error:
            self._forget()
            raise ModelError(
                "DP_LAYER_REFUSED",
                "a trainable layer keeps running statistics over rows (a buffer), so no row has a gradient of its own",
                "use a base without batch normalisation in its trained part, or privacy.mechanism none",
            ) from error
        self._tuned.model.train()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tuned.model.eval()
        self._hooks.remove_hooks()
        self._forget()

    def of(self, rows: Sequence[Row]) -> RowMatrix:
        """Gradients at the model's present state, in the order of the layout.

        Args:
            rows: at least one.

        Returns:
            float32 [rows, d], on the CPU.

        Raises:
            ModelError: DP_ROWS_MIXED with the tensor's name, where a layer's first dimension is not the row.
        """
        return np.concatenate(self._samples(rows), axis=1)

    def pieces(self, rows: Sequence[Row], counts: Sequence[int]) -> Iterator[tuple[RowMatrix, tuple[int, ...]]]:
        """The same gradients, some patients at a time: a piece stays in cache while it is clipped and rounded.

        Memory: rows * d * 4 bytes (where the model is not on the CPU, there and here), the activations of one forward
        pass, and one piece.

        Args:
            rows: at least one, those of a patient together.
            counts: rows of each patient; they add up to len(rows).

        Yields:
            float32 [rows of some patients, d], the caller's to change until the next piece; and the counts of these.

        Raises:
            ModelError: as `of`.
        """
        samples, dimension = self._samples(rows), self._tuned.layout.dimension
        first = 0
        for patients in in_pieces(counts, max(1, _PIECE_BYTES // (4 * dimension))):
            last = first + sum(patients)
            if len(self._piece) < last - first:
                self._piece = np.empty((last - first, dimension), dtype=np.float32)
            piece: RowMatrix = self._piece[: last - first]
            for (_, span), sample in zip(self._tuned.layout.spans(), samples, strict=True):
                piece[:, span] = sample[first:last]
            yield piece, patients
            first = last

    def _samples(self, rows: Sequence[Row]) -> list[RowMatrix]:
        """Of each trainable tensor in turn: float32 [rows, values], on the CPU."""
        with warnings.catch_warnings():
            # Of a first trained layer whose input needs no gradient; the hook uses outputs alone.
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            self._loss(rows).backward()  # type: ignore[no-untyped-call]
        samples = []
        for slot, parameter in zip(self._tuned.layout.slots, self._tuned.trainable, strict=True):
            sample = parameter.grad_sample
            if not hasattr(sample, "shape") or tuple(sample.shape) != (len(rows), *slot.shape):
                raise _mixed(slot.name)
            samples.append(sample.detach().to("cpu").numpy().reshape(len(rows), -1))
            parameter.grad_sample = parameter.grad = None
        return samples

    def _forget(self) -> None:
        """No un-noised gradient and no activation stays here or on the model."""
        self._piece = self._piece[:0].copy()
        for parameter in self._tuned.model.parameters():
            parameter.grad = None
            for name in ("grad_sample", "_current_grad_sample", "_forward_counter"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
        for module in self._tuned.model.modules():
            for name in ("activations", "max_batch_len"):
                if name in module.__dict__:
                    delattr(module, name)


def _hooks() -> Any:
    """Opacus's hooks, whose sampler keeps a weight's gradients as they come.

    Opacus copies them into zeros of the same size, so that a layer that is used twice can add to them. That doubles
    the memory, and fresh memory of this size costs as much as the gradients. A second use is still added by Opacus.
    """
    from opacus.grad_sample import GradSampleHooks

    class KeepingHooks(GradSampleHooks):  # type: ignore[misc]
        GRAD_SAMPLERS = MappingProxyType({kind: _keeping(made) for kind, made in GradSampleHooks.GRAD_SAMPLERS.items()})

    return KeepingHooks


def _keeping(sampler: GradSampler) -> GradSampler:
    def sample(layer: Any, activations: list[torch.Tensor], backprops: torch.Tensor) -> dict[Any, torch.Tensor]:
        left = {}
        for parameter, gradient in sampler(layer, activations, backprops).items():
            first = parameter.requires_grad and not hasattr(parameter, "_current_grad_sample")
            # a vector's gradient may be the very memory of `backprops`, and is small
            if first and gradient.ndim > 2 and len(gradient) == layer.max_batch_len:
                parameter._current_grad_sample = gradient
            else:
                left[parameter] = gradient
        return left

    return sample


def in_pieces(counts: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Cut patients, given by their rows, into pieces of at most `most` rows; a patient with more is one by itself."""
    piece: list[int] = []
    for count in counts:
        if piece and sum(piece) + count > most:
            yield tuple(piece)
            piece = []
        piece.append(count)
    if piece:
        yield tuple(piece)


def refuse_stale(tuned: TunedModel) -> None:
    """Refuse a model whose trainable tensors are no longer the ones that will be read and sent.

    Moving a model after its adapters were made can replace them: hooks and optimizer then work on tensors that nobody
    reads, the loss falls, epsilon is spent and the adapters never change.

    Raises:
        ModelError: DP_STALE_PARAMETERS with the number of tensors.
    """
    held = {id(parameter) for parameter in tuned.model.parameters() if parameter.requires_grad}
    wanted = {id(parameter) for parameter in tuned.trainable}
    if held != wanted:
        raise ModelError(
            "DP_STALE_PARAMETERS",
            f"{len(wanted - held)} of {len(wanted)} trainable tensors are no longer part of the model, "
            f"{len(held - wanted)} others have taken their place",
            "build the tuned model after the base was moved to its device",
        )


def _mixed(name: str) -> ModelError:
    return ModelError(
        "DP_ROWS_MIXED",
        f"the layer of {name} does not see one row per entry of its first dimension",
        "clipping rows would not clip patients there: train another part (strategy lora), or use mechanism none",
    )
