"""The smallest encoder-free model that learns on a CPU: a Fuyu of 0.44 million parameters, built from a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import FuyuConfig, FuyuForCausalLM

IMAGE_SIZE = 32
PATCH_SIZE = 16
_INITIAL_DEVIATION = 0.02


def tiny_fuyu_config(*, vocabulary: int, image_token: int, end_token: int, pad_token: int) -> FuyuConfig:
    """Four image tokens, hidden 96, two layers of four heads, untied head.

    Args:
        vocabulary: number of tokens.
        image_token, end_token, pad_token: ids in the tokenizer.

    Source: trial settings for small models; few image tokens win at this scale. Architecture: Bavishi et al. 2023.
    """
    from transformers.models.fuyu.configuration_fuyu import FuyuConfig

    return FuyuConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        num_channels=3,
        image_token_id=image_token,
        tie_word_embeddings=False,
        text_config={
            "model_type": "persimmon",
            "vocab_size": vocabulary,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "qk_layernorm": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 25000.0, "partial_rotary_factor": 0.5},
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": end_token,
            "pad_token_id": pad_token,
        },
    )


def fresh_tiny_fuyu(config: FuyuConfig, rng: np.random.Generator) -> FuyuForCausalLM:
    """A model whose weights come from `rng` alone: matrices N(0, 0.02), connector N(0, 1/fan-in)."""
    import torch
    from transformers.models.fuyu.modeling_fuyu import FuyuForCausalLM

    model = FuyuForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                connector = "vision_embed_tokens" in name
                deviation = parameter.shape[1] ** -0.5 if connector else _INITIAL_DEVIATION
                drawn = rng.normal(0.0, deviation, tuple(parameter.shape)).astype(np.float32)
                parameter.copy_(torch.from_numpy(drawn))
    return model
