"""Find vision encoder, connector and language model in any image-text model of transformers 5, by one general rule.

The rule, not a list of families: transformers names the encoder (`get_encoder(modality="image")`) and the language
model (`get_decoder()`); what is left beside them, the output head and encoders of other modalities is the connector.
A family that keeps the connector inside its vision encoder calls it a merger or projector there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedvlm_secure.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

_INNER_CONNECTOR = ("merger", "projector", "connector")
_DISCRETE = ("vqmodel", "vq_model", "vision_tokenizer")
_NOT_TUNED = ("lm_head", "router", "gate_router", "vqmodel")


@dataclass(frozen=True)
class ModelParts:
    """Names only, as in `model.named_parameters()` and `model.named_modules()`.

    Args:
        encoder: name of the vision encoder, None when the model is encoder-free.
        decoder: name of the language model.
        connector: parameters of the connector, in the model's order; empty when `connector_missing` says why.
        connector_missing: reason that strategies which train the connector are refused, else empty.
        lora_targets: fully qualified names of the nn.Linear modules of the language model, without heads and routers.
    """

    encoder: str | None
    decoder: str
    connector: tuple[str, ...]
    connector_missing: str
    lora_targets: tuple[str, ...]


def find_parts(model: Any) -> ModelParts:
    """Look at a loaded `PreTrainedModel`.

    Raises:
        ModelError: MODEL_PARTS with the reason: no language model inside, or it has no linear layer.
    """
    from torch import nn

    names = {id(module): name for name, module in model.named_modules()}
    decoder = model.get_decoder()
    if decoder is model or id(decoder) not in names:
        raise ModelError(
            "MODEL_PARTS",
            f"{type(model).__name__} has no language model apart from itself (get_decoder() finds none)",
            "use an image-text model, such as those of AutoModelForImageTextToText",
        )
    encoder = _encoder(model)
    connector, missing = _connector(model, encoder, decoder)
    head = model.get_output_embeddings()
    prefix = names[id(decoder)]
    targets = tuple(
        f"{prefix}.{name}"
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not set(name.split(".")) & set(_NOT_TUNED)
    )
    if not targets:
        raise ModelError(
            "MODEL_PARTS",
            f"the language model of {type(model).__name__} has no nn.Linear to adapt",
            "use another model",
        )
    return ModelParts(names[id(encoder)] if encoder is not None else None, prefix, connector, missing, targets)


def _encoder(model: Any) -> Any | None:
    found = model.get_encoder(modality="image")
    return None if found is model or found is model.base_model else found


def _connector(model: Any, encoder: Any | None, decoder: Any) -> tuple[tuple[str, ...], str]:
    """Parameters beside encoder, language model and head; else the encoder's own merger; else the reason for none."""
    taken = {id(parameter) for parameter in decoder.parameters()}
    for other in (encoder, model.get_output_embeddings(), model.get_input_embeddings(), *_other_modalities(model)):
        if other is not None:
            taken |= {id(parameter) for parameter in other.parameters()}
    discrete = [module for name, module in model.named_modules() if name.split(".")[-1] in _DISCRETE]
    for module in discrete:
        taken |= {id(parameter) for parameter in module.parameters()}
    beside = tuple(name for name, parameter in model.named_parameters() if id(parameter) not in taken)
    if beside:
        return beside, ""
    if encoder is not None:
        inner = _inner_connector(encoder)
        found = tuple(name for name, parameter in model.named_parameters() if id(parameter) in inner)
        if found:
            return found, ""
        return (), f"{type(model).__name__} has no parameter between vision encoder and language model"
    if discrete:
        return (), f"{type(model).__name__} turns pictures into discrete tokens and has no connector"
    return (), f"{type(model).__name__} has no parameter outside its language model"


def _inner_connector(encoder: nn.Module) -> set[int]:
    found: set[int] = set()
    for name, child in encoder.named_children():
        if any(word in name for word in _INNER_CONNECTOR):
            found |= {id(parameter) for parameter in child.parameters()}
    return found


def _other_modalities(model: Any) -> list[Any]:
    """Encoders and embedders of sound and video, which a picture never passes through."""
    found = model.get_encoder(modality="audio")
    others = [] if found is model or found is model.base_model else [found]
    return others + [module for name, module in model.named_modules() if "audio" in name.split(".")[-1]]
