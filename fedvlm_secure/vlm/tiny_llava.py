"""The smallest encoder-based model that learns on a CPU: a LLaVA built from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

IMAGE_SIZE = 32
_PATCH_SIZE = 16
_VISION_WIDTH = 128
_WIDTH = 96
_INITIAL_DEVIATION = 0.02
_NARROW = ("embed_tokens", "lm_head", "vision_tower.encoder")


def tiny_llava_config(*, vocabulary: int, image_token: int, end_token: int, pad_token: int) -> LlavaConfig:
    """SigLIP encoder (sixteen patches of 8 x 8 pixels, two layers), 2-layer MLP connector, Llama of two layers.

    The encoder's last layer is used whole (`full`: SigLIP has no class token) and it has no pooling head, which
    nothing would read.

    Args:
        vocabulary: number of tokens.
        image_token, end_token, pad_token: ids in the tokenizer.

    Source: Liu et al. 2023 (LLaVA-1.5); Zhai et al. 2023 (SigLIP); widths from a trial for one CPU core.
    """
    from transformers.models.llava.configuration_llava import LlavaConfig

    return LlavaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": IMAGE_SIZE,
            "patch_size": _PATCH_SIZE,
            "num_channels": 3,
            "hidden_size": _VISION_WIDTH,
            "intermediate_size": 2 * _VISION_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": _WIDTH,
            "intermediate_size": 2 * _WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": end_token,
            "pad_token_id": pad_token,
        },
        image_token_index=image_token,
        image_seq_length=(IMAGE_SIZE // _PATCH_SIZE) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
    )


def fresh_tiny_llava(config: LlavaConfig, rng: np.random.Generator) -> LlavaForConditionalGeneration:
    """A model whose weights come from `rng` alone.

    Language model N(0, 0.02); encoder and connector N(0, 1/fan-in), so that a picture is not drowned by the text;
    positions of the encoder N(0, 0.02); biases zero, norms one.
    """
    import torch
    from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            wide = not any(part in name for part in _NARROW)
            deviation = parameter[0].numel() ** -0.5 if wide else _INITIAL_DEVIATION
            drawn = rng.normal(0.0, deviation, tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(torch.from_numpy(drawn))
    return model
