"""Configurations of model classes as `save_pretrained` writes them: a type's defaults, and the same with few layers."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.initialization import no_init_weights

from inspector.compat.transformers import take_scipy_as_installed

__all__ = ["build", "count_parameters", "find_type", "list_shortened", "make_fields"]

Fields = dict[str, Any]

# What every published configuration of a type has beside its defaults, where transformers cannot build or run those.
_TEXT_OF_GLM = {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [8, 12, 12],
        "partial_rotary_factor": 0.5,
    }
}
_VISION_OF_AYA = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "num_attention_heads": 16,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "patch_size": 14,
    "image_size": 364,
}
# Sizes of towers whose defaults make no whole number of tokens, or others than their text part takes.
_VISION_OF_GEMMA = {**_VISION_OF_AYA, "num_hidden_layers": 27, "image_size": 896}
_VISION_OF_IDEFICS = {"hidden_size": 1152, "num_attention_heads": 16, "image_size": 364, "patch_size": 14}
_SPANS_OF_QWEN = {"vision_start_token_id": 151652, "vision_end_token_id": 151653}
_PROJECTOR_OF_GRANITE = {
    "model_type": "blip_2_qformer",
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 2,
    "encoder_hidden_size": 1024,
}
_ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
_REPAIRS: Mapping[str, Fields] = {
    "dots1": {"n_routed_experts": 16, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "deepseek_v2": {"num_experts_per_tok": 6},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "dbrx": {"attn_config": {"rope_theta": 500000.0, "kv_n_heads": 8, "clip_qkv": 8}},
    **{
        name: {"decoder_start_token_id": 0}
        for name in ("t5", "longt5", "udop", "pop2piano", "switch_transformers", "umt5", "mt5")
    },
    **{name: {"text_config": _TEXT_OF_GLM} for name in ("glm4v", "glm46v", "glm_image")},
    "glm4v_moe": {"text_config": {**_TEXT_OF_GLM, "head_dim": 128}},
    **{name: {"prediction_length": 24} for name in ("autoformer", "informer", "time_series_transformer")},
    "beit": {"out_indices": [3, 5, 7, 11], "use_mask_token": True},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "position_embedding_type": "rotary"},
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "aya_vision": {"vision_config": _VISION_OF_AYA},
    "qwen3_omni_moe": {"talker_config": {"text_config": {"shared_expert_intermediate_size": 768}}},
    "hunyuan_vl": {"text_config": {"head_dim": 128, "rope_parameters": {**_ROTARY, "mrope_section": [16] * 4}}},
    "ViltForImagesAndTextClassification": {"num_images": 2, "modality_type_vocab_size": 3},
    "vision-encoder-decoder": {"decoder_start_token_id": 101, "pad_token_id": 0},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "ministral": {"head_dim": 128},
    "qwen2_5_omni_thinker": _SPANS_OF_QWEN,
    "qwen3_omni_moe_thinker": {"text_config": {"head_dim": 128}, **_SPANS_OF_QWEN},
    "step3p7": {"text_config": {"sliding_window": 512}},
    "blip-2": {"image_token_index": 50265},
    "instructblip": {"image_token_index": 50265},
    "instructblipvideo": {"video_token_index": 50265},
    "molmo2": {"adapter_config": {"text_hidden_size": 4096}},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "moonshine": {"pad_token_id": 2},
    "xmod": {"default_language": "en_XX"},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": dict(_ROTARY), "sliding_attention": dict(_ROTARY)},
    },
    "qwen2_vl": {"vision_config": {"hidden_size": 8192}},
    "llama4": {"vision_config": {"hidden_size": 1408, "vision_output_dim": 4096}},
    "gemma3": {"vision_config": _VISION_OF_GEMMA},
    "t5gemma2": {"encoder": {"vision_config": _VISION_OF_GEMMA}},
    "idefics3": {"vision_config": _VISION_OF_IDEFICS},
    "smolvlm": {"scale_factor": 4, "vision_config": {"image_size": 512, "patch_size": 16}},
    "janus": {"vision_config": {"projection_dim": 4096}},
    **{name: {"projector_config": _PROJECTOR_OF_GRANITE} for name in ("granite_speech", "granite_speech_plus")},
    "qwen3_asr": {"audio_config": {"output_dim": 2048}},
    "voxtral": {"audio_token_id": 24},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
}
# Types that are made of two others.
_JOINED = {
    "encoder-decoder": ("EncoderDecoderConfig", "BertConfig", "BertConfig"),
    "speech-encoder-decoder": ("SpeechEncoderDecoderConfig", "Wav2Vec2Config", "BertConfig"),
    "vision-encoder-decoder": ("VisionEncoderDecoderConfig", "ViTConfig", "BertConfig"),
    "nougat": ("VisionEncoderDecoderConfig", "DonutSwinConfig", "MBartConfig"),
    "vision-text-dual-encoder": ("VisionTextDualEncoderConfig", "ViTConfig", "BertConfig"),
    "rag": ("RagConfig", "DPRConfig", "BartConfig"),
}
# Fields that are a number of layers.
_LAYERS = re.compile(
    r"^(?!.*(first|dense|interval|period|offset|freq|drop|window|every|shared|skip|feat|index|size|_dim|norm|ratio|"
    r"replace|select|start|kv_|mtp|nextn|per_stage|max_))(.*_)?(num_(\w+_)?layers?|num_hidden_layers|n_layers?|"
    r"\w*encoder_layers|\w*decoder_layers|layers|depth|num_layers_\w+|num_(\w+_)?blocks)$"
)
_EXPERTS = re.compile(
    r"^(n_routed_experts|num_experts|num_local_experts|moe_num_experts|n_experts|num_moe_experts|moe_n_routed_experts)$"
)
# Lists of layers whose outputs are read.
_PLACES = ("intermediate_layers_indices", "vision_feature_layers")
# As many layers as may be needed to have one of every kind.
_DEPTHS = (2, 4, 6, 8, 12)


def find_type(model_type: str, model_class: Any) -> str:
    """Return the type whose configuration a class takes: a mapping may lead from a whole model to its text part."""
    own = getattr(model_class, "config_class", None)
    if own is None or model_type in _REPAIRS or model_type in _JOINED:
        return model_type
    leads = not issubclass(CONFIG_MAPPING[model_type], own) and own.model_type in CONFIG_MAPPING
    return own.model_type if leads else model_type


def make_fields(model_type: str, name: str = "") -> Fields:
    """Return the fields of a type's default configuration as `save_pretrained` writes them, for a class by `name`."""
    return _list_fields(_make_default(model_type, name), differing=True)


def build(fields: Fields, model_type: str, model_class: Any, device: str = "meta") -> nn.Module:
    """Return a model of a class on a device, its weights not set."""
    config = CONFIG_MAPPING[model_type].from_dict(_decode(copy.deepcopy(fields)))
    with torch.device(device), no_init_weights(), take_scipy_as_installed():
        model: Any = model_class(config)
    model.tie_weights()
    built: nn.Module = model
    return built


def count_parameters(model: nn.Module) -> int:
    """Return the number of elements of a model's parameters, each counted once."""
    return sum(parameter.numel() for parameter in {id(item): item for item in model.parameters()}.values())


def list_shortened(
    model_type: str, model_class: Any, name: str, whole: nn.Module, most_experts: int = 10**9
) -> Iterator[Fields]:
    """Yield the default's fields with few layers of every kind that `whole`, the default's model, has, if there are."""
    kinds, count = _list_kinds(whole), count_parameters(whole)
    full = _decode(_list_fields(_make_default(model_type, name), differing=False))
    for depth in _DEPTHS:
        try:
            short = CONFIG_MAPPING[model_type].from_dict(_shorten(full, depth, most_experts))
            fields = _list_fields(short, differing=True)
            model = build(fields, model_type, model_class)
        except Exception:  # of a configuration that does not allow so few
            continue
        if kinds <= _list_kinds(model) and count_parameters(model) < count:
            yield fields
            return


def _make_default(model_type: str, name: str) -> PretrainedConfig:
    """Return the default configuration of a type."""
    if model_type in _JOINED:
        joined, *parts = (getattr(transformers, item) for item in _JOINED[model_type])
        made = [part() for part in parts]
        if model_type == "nougat":
            made[1] = parts[1](is_decoder=True, add_cross_attention=True)
        maker = {
            "RagConfig": "from_question_encoder_generator_configs",
            "VisionTextDualEncoderConfig": "from_vision_text_configs",
        }
        config: PretrainedConfig = getattr(joined, maker.get(joined.__name__, "from_encoder_decoder_configs"))(*made)
        for key, value in _REPAIRS.get(model_type, {}).items():
            setattr(config, key, value)
        return config
    repairs = copy.deepcopy(dict(_REPAIRS.get(model_type, {})) | dict(_REPAIRS.get(name, {})))
    default: PretrainedConfig = CONFIG_MAPPING[model_type](**repairs)
    vision, text = getattr(default, "vision_config", None), getattr(default, "text_config", None)
    sizes = getattr(vision, "out_hidden_size", None), getattr(text, "hidden_size", None)
    if vision is not None and None not in sizes and sizes[0] != sizes[1]:  # no tower fits such a text part
        vision.out_hidden_size = sizes[1]
    return default


def _list_fields(config: PretrainedConfig, *, differing: bool) -> Fields:
    """Return a configuration as it is saved; those that differ from the defaults of the base class, or all."""
    fields: Fields = json.loads(config.to_json_string(use_diff=differing))
    fields.pop("transformers_version", None)
    return fields


def _decode(value: Any) -> Any:
    """Return fields with infinities as numbers, which transformers writes as `{"__float__": "Infinity"}`."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _decode(item) for key, item in value.items()}
    return [_decode(item) for item in value] if isinstance(value, list) else value


def _shorten(node: Any, depth: int, experts: int) -> Any:
    """Return fields with at most `depth` layers in each stack and so many experts; lists by layer are cut."""
    if isinstance(node, list):
        return [_shorten(item, depth, experts) for item in node]
    if not isinstance(node, dict):
        return node
    counts = {key: item for key, item in node.items() if type(item) is int and item > depth and _LAYERS.match(key)}
    lengths = set(counts.values())
    made: Fields = {}
    for key, value in node.items():
        is_list = isinstance(value, list)
        if key in counts:
            made[key] = depth
        elif _EXPERTS.match(key) and type(value) is int:
            made[key] = min(value, experts)
        elif (
            is_list and depth < len(value) in lengths and not key.startswith("out_") and not isinstance(value[0], list)
        ):
            made[key] = value[:depth]
        elif is_list and key in _PLACES:
            made[key] = [max(min(item, depth - 1), -depth) for item in value]
        elif key in ("depths", "encoder_depths") and is_list and all(type(item) is int for item in value):
            made[key] = [min(item, depth) for item in value]
        else:
            made[key] = _shorten(value, depth, experts)
    return made


def _list_kinds(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}
