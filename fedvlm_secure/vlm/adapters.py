"""The trainable part of a base: connector and LoRA factors, read and written as one flat difference from the start."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedvlm_secure.errors import ModelError
from fedvlm_secure.layout import TensorSlot, UpdateLayout
from fedvlm_secure.types import Float32Vector
from fedvlm_secure.vlm.base import LoadedBase
from fedvlm_secure.vlm.parts import ModelParts, find_parts
from fedvlm_secure.vlm.start import orthogonal_start, uniform_start

Strategy = Literal["connector", "lora", "connector+lora"]
Factors = Literal["both", "ffa"]
STRATEGIES: tuple[Strategy, ...] = ("connector", "lora", "connector+lora")


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale and which factors train: `both`, or `ffa` (A frozen and orthogonal, from the shared seed).

    Raises:
        ValueError: a rank below 1, an alpha not above 0, or an unknown mode.
    """

    r: int = 8
    alpha: float = 32.0
    factors: Factors = "both"

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha <= 0 or self.factors not in ("both", "ffa"):
            raise ValueError("lora: r >= 1, alpha > 0, factors both or ffa")


def canonical_name(name: str) -> str:
    """A parameter's name as all nodes write it: without PEFT's wrapping."""
    for wrapping in ("base_model.model.", "modules_to_save.", "default.", "base_layer."):
        name = name.replace(wrapping, "")
    return name.removesuffix(".default")


class TunedModel:
    """A base with its trainable tensors, always at (common start + difference).

    Args:
        base: consumed: its model is changed in place.
        strategy: what trains.
        lora: ignored by the strategy `connector`.
        seed: the policy's; gives LoRA A, while LoRA B starts at zero and the connector at the base's weights.

    Raises:
        ModelError: STRATEGY_REFUSED with the reason, such as a model without a connector.
        ValueError: unknown strategy.
    """

    def __init__(self, base: LoadedBase, *, strategy: Strategy, lora: LoraSettings, seed: int) -> None:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy is one of {', '.join(STRATEGIES)}")
        self.base = base
        self.strategy: Strategy = strategy
        self.parts: ModelParts = find_parts(base.model)
        self.peft_model: Any | None = None
        if "connector" in strategy and self.parts.connector_missing:
            raise ModelError("STRATEGY_REFUSED", self.parts.connector_missing, "use the strategy lora")
        base.model.requires_grad_(False)
        if "lora" in strategy:
            self.peft_model = _add_lora(base.model, self.parts.lora_targets, lora)
            _start_lora(base.model, lora, seed)
        if "connector" in strategy:
            wanted = frozenset(self.parts.connector)
            for name, parameter in base.model.named_parameters():
                if canonical_name(name) in wanted:
                    parameter.requires_grad_(True)
        named = {canonical_name(name): p for name, p in base.model.named_parameters() if p.requires_grad}
        self._trainable = [named[name] for name in sorted(named)]
        self.layout = UpdateLayout(tuple(TensorSlot(name, tuple(named[name].shape)) for name in sorted(named)))
        self._start = self._read()

    @property
    def model(self) -> Any:
        """The tuned `PreTrainedModel`, LoRA layers in place."""
        return self.base.model

    @property
    def trainable(self) -> list[Any]:
        """Trainable parameters in the order of the layout; float32."""
        return list(self._trainable)

    def load_difference(self, difference: Float32Vector) -> None:
        """Put the model at common start + `difference`.

        Args:
            difference: float32 [d], finite.

        Raises:
            ValueError: another shape or dtype.
            ModelError: NON_FINITE_STATE with the tensor's name.
        """
        import torch

        if difference.dtype != np.float32 or difference.shape != (self.layout.dimension,):
            raise ValueError(f"the difference is float32 [{self.layout.dimension}]")
        refuse_non_finite(self.layout, difference, code="NON_FINITE_STATE", what="the state to load")
        wanted = self._start + difference
        with torch.no_grad():
            for (slot, span), parameter in zip(self.layout.spans(), self._trainable, strict=True):
                parameter.copy_(torch.from_numpy(wanted[span].reshape(slot.shape)))

    def read_difference(self) -> Float32Vector:
        """float32 [d]: the trainable tensors minus their common start. May hold NaN after a diverged step."""
        difference: Float32Vector = self._read() - self._start
        return difference

    def _read(self) -> Float32Vector:
        flat = [parameter.detach().to("cpu").numpy().reshape(-1) for parameter in self._trainable]
        return np.concatenate(flat).astype(np.float32, copy=True)


def refuse_non_finite(layout: UpdateLayout, vector: Float32Vector, *, code: str, what: str) -> None:
    """Name the first tensor that holds NaN or infinity; never a value.

    Raises:
        ModelError: `code`.
    """
    broken = np.flatnonzero(~np.isfinite(vector))
    if broken.size:
        raise ModelError(
            code,
            f"{what} holds {broken.size} coordinates that are not finite, first in {layout.tensor_at(int(broken[0]))}",
            "lower local.learning_rate, and look for broken pictures or rows; nothing was sent",
        )


def _add_lora(model: Any, targets: tuple[str, ...], lora: LoraSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(targets),
    )
    with warnings.catch_warnings():
        # peft reads a name that transformers has renamed; nothing that an operator could act on
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        return get_peft_model(model, config)


def _start_lora(model: Any, lora: LoraSettings, seed: int) -> None:
    import torch

    draw = orthogonal_start if lora.factors == "ffa" else uniform_start
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(torch.from_numpy(draw(seed, canonical_name(name), *parameter.shape)))
                parameter.requires_grad_(lora.factors == "both")
            elif ".lora_B." in name:
                parameter.zero_()
