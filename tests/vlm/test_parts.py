"""The general rule, on tiny random models of families that lay out their parts differently."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

from fedvlm_secure.errors import ModelError
from fedvlm_secure.vlm.parts import ModelParts, find_parts

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
CLIP = {"model_type": "clip_vision_model", "projection_dim": 32, **VISION}
LLAMA = {"model_type": "llama", **TEXT}
QWEN_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "out_hidden_size": 32,
    "patch_size": 14,
}
QWEN_TEXT = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}


def tiny(family: str) -> Any:
    match family:
        case "llava":
            config = transformers.LlavaConfig(vision_config=CLIP, text_config=LLAMA, image_token_id=5)
            return transformers.LlavaForConditionalGeneration(config)
        case "llava_next":
            next_config = transformers.LlavaNextConfig(vision_config=CLIP, text_config=LLAMA, image_token_id=5)
            return transformers.LlavaNextForConditionalGeneration(next_config)
        case "smolvlm":
            smol = transformers.SmolVLMConfig(vision_config=VISION, text_config=LLAMA, scale_factor=2, image_token_id=5)
            return transformers.SmolVLMForConditionalGeneration(smol)
        case "gemma3":
            gemma = transformers.Gemma3Config(
                vision_config={"model_type": "siglip_vision_model", **VISION},
                text_config={**TEXT, "head_dim": 8},
                mm_tokens_per_image=4,
                image_token_id=5,
            )
            return transformers.Gemma3ForConditionalGeneration(gemma)
        case "qwen2_5_vl":
            qwen = transformers.Qwen2_5_VLConfig(vision_config=QWEN_VISION, text_config=QWEN_TEXT)
            return transformers.Qwen2_5_VLForConditionalGeneration(qwen)
        case "qwen3_vl":
            vision = {**QWEN_VISION, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
            qwen3 = transformers.Qwen3VLConfig(vision_config=vision, text_config={**QWEN_TEXT, "head_dim": 8})
            return transformers.Qwen3VLForConditionalGeneration(qwen3)
        case "gemma4_unified" | "gemma4":
            text = {**TEXT, "head_dim": 8, "global_head_dim": 8, "vocab_size_per_layer_input": 99}
            text |= {"hidden_size_per_layer_input": 8, "layer_types": ["sliding_attention", "full_attention"]}
            shape = {**VISION, "num_key_value_heads": 4}
            del shape["image_size"]
            if family == "gemma4":
                gemma4 = transformers.Gemma4Config(text_config=text, vision_config=shape)
                return transformers.Gemma4ForConditionalGeneration(gemma4)
            unified = transformers.Gemma4UnifiedConfig(text_config=text, vision_config=shape)
            return transformers.Gemma4UnifiedForConditionalGeneration(unified)
        case "fuyu":
            fuyu = transformers.FuyuConfig(
                image_size=32, patch_size=16, image_token_id=5, text_config={"model_type": "persimmon", **TEXT}
            )
            return transformers.FuyuForCausalLM(fuyu)
    raise AssertionError(family)


def roots(parts: ModelParts) -> set[str]:
    """The connector's parameters without the last two name parts that only say which weight it is."""
    return {name.split(".")[1] for name in parts.connector}


@pytest.mark.parametrize(
    ("family", "encoder", "decoder", "connector"),
    [
        ("fuyu", None, "model.language_model", {"vision_embed_tokens"}),
        ("llava", "model.vision_tower", "model.language_model", {"multi_modal_projector"}),
        ("llava_next", "model.vision_tower", "model.language_model", {"multi_modal_projector", "image_newline"}),
        ("smolvlm", "model.vision_model", "model.text_model", {"connector"}),
        ("gemma3", "model.vision_tower", "model.language_model", {"multi_modal_projector"}),
        ("gemma4", "model.vision_tower", "model.language_model", {"embed_vision"}),
        ("gemma4_unified", None, "model.language_model", {"embed_vision"}),
    ],
)
def test_parts_are_found_without_naming_the_family(
    family: str, encoder: str | None, decoder: str, connector: set[str]
) -> None:
    parts = find_parts(tiny(family))
    assert (parts.encoder, parts.decoder, roots(parts)) == (encoder, decoder, connector)


@pytest.mark.parametrize(
    ("family", "connector"),
    [("qwen2_5_vl", {"merger"}), ("qwen3_vl", {"merger", "deepstack_merger_list"})],
)
def test_a_merger_inside_the_vision_encoder_is_the_connector(family: str, connector: set[str]) -> None:
    parts = find_parts(tiny(family))
    assert parts.encoder == "model.visual"
    assert {name.split(".")[2] for name in parts.connector} == connector


@pytest.mark.parametrize("family", ["fuyu", "llava", "smolvlm", "gemma3", "qwen2_5_vl"])
def test_lora_never_touches_vision_head_or_connector(family: str) -> None:
    parts = find_parts(tiny(family))
    assert parts.lora_targets
    assert all(name.startswith(f"{parts.decoder}.layers.") for name in parts.lora_targets)
    assert len(parts.lora_targets) == len(set(parts.lora_targets))


def test_gemma3_connector_without_a_linear_layer_is_whole() -> None:
    names = find_parts(tiny("gemma3")).connector
    assert {name.rsplit(".", 1)[-1] for name in names} == {"mm_input_projection_weight", "weight"}


def test_discrete_token_model_has_no_connector_and_the_reason_is_given() -> None:
    config = transformers.ChameleonConfig(
        **{**TEXT, "num_key_value_heads": 4},
        vocabulary_map={"<image>": 5, "IMGIMGAA": 10, "IMGIMGBA": 11},
        vq_config={
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 8,
            "resolution": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
        },
    )
    parts = find_parts(transformers.ChameleonForConditionalGeneration(config))
    assert parts.connector == ()
    assert "discrete tokens" in parts.connector_missing
    assert not any("vqmodel" in name for name in parts.lora_targets)


def test_a_bare_language_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no language model apart from itself") as caught:
        find_parts(transformers.LlamaModel(transformers.LlamaConfig(**TEXT)))
    assert caught.value.code == "MODEL_PARTS"
