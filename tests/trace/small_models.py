"""Small models of many architectures with a batch for each: on the CPU with data, on meta without.

A row of the table is a model type, what its configuration needs beyond `COMMON`, and the auto class that builds it.
Dropout is off: the CPU keeps other noise than CUDA, and meta follows CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import peft
import torch
import transformers

import inspector
from inspector.workloads.batch import Input, make_batch_inputs
from inspector.workloads.inputs import make_item

BATCH, LENGTH, VOCABULARY = 2, 24, 160
IMAGE_TOKEN = 150
RECIPE = inspector.Recipe(batch_size=BATCH, seq_len=LENGTH, padding=False, image_size="24x16", audio_seconds=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """A small model: fields of its configuration beside the common ones, and the class that builds it.

    `model_type` is the row's name where it is not given, `options` go to `from_config`. `kernels` are further kernels
    of the CPU that take memory of their own in this model.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    head: str = "CausalLM"
    common: bool = True
    model_type: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
STATES: dict[str, Any] = {"state_size": 4, "time_step_rank": 4}
EXPERTS: dict[str, Any] = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
ENCODER_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
IMAGES: dict[str, Any] = {"image_size": 16, "patch_size": 8, "num_labels": 5}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}

# The CPU selects by a mask with counters of its own, mixes integers and floats as deberta-v2's does, and has gradients
# of gelu and of pooling that take contiguous tensors.
OF_IMAGES = (
    *("aten::masked_select", "aten::sum", "aten::div", "aten::mul", "aten::sub"),
    *("aten::gelu", "aten::gelu_backward", "aten::avg_pool2d_backward"),
)

MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
PATCHES = {
    "depth": 2,
    "out_hidden_size": 64,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_PIXELS = {"min_pixels": 64, "max_pixels": 4096}


def of_images(
    text_type: str = "llama",
    text: dict[str, Any] | None = None,
    vision_type: str = "clip_vision_model",
    vision: dict[str, Any] | None = None,
    **fields: Any,
) -> Small:
    """Return a small model of text and images; a part has no type where the whole knows it."""
    of_text = {"model_type": text_type} if text_type else {}
    of_vision = {"model_type": vision_type} if vision_type and "image_size" not in (vision or {}) else {}
    parts = {
        "text_config": {**COMMON, **GROUPED, **of_text, **(text or {})},
        "vision_config": {**VISION, **of_vision, **(vision or {})},
        "image_token_id": IMAGE_TOKEN,
        "image_token_index": IMAGE_TOKEN,
    }
    return Small(fields=parts | fields, head="ImageTextToText", common=False, kernels=OF_IMAGES)


SMALL: dict[str, Small] = {
    "llama": Small(fields=GROUPED),
    "qwen2": Small(fields=GROUPED),
    "qwen3": Small(fields={**GROUPED, "head_dim": 16}),
    "mistral": Small(fields={**GROUPED, "sliding_window": 8}),
    "gemma2": Small(fields={**GROUPED, "head_dim": 16, "sliding_window": 8}),
    "gemma3_text": Small(fields={**GROUPED, "head_dim": 16, "sliding_window": 8}),
    "phi3": Small(fields=GROUPED),
    "olmo2": Small(fields=GROUPED),
    "gpt_neox": Small(),
    "starcoder2": Small(fields={**GROUPED, "residual_dropout": 0.0, "embedding_dropout": 0.0}),
    "stablelm": Small(fields=GROUPED),
    "granite": Small(fields=GROUPED),
    "cohere": Small(fields=GROUPED),
    "glm4": Small(fields={**GROUPED, "head_dim": 16}),
    "smollm3": Small(fields=GROUPED),
    "gpt2": Small(fields={"n_inner": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "opt": Small(fields={"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.0}),
    "falcon": Small(),
    # Experts.
    "mixtral": Small(fields={**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": Small(fields={**EXPERTS, "num_experts": 4}),
    "olmoe": Small(fields={**EXPERTS, "num_experts": 4}),
    "deepseek_v3": Small(
        fields={
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
        }
    ),
    "gpt_oss": Small(fields={**EXPERTS, "num_local_experts": 4, "sliding_window": 8}),
    # A loop over experts, each with all tokens: no other routing is the same with data and without.
    "mixtral in a loop": Small(
        fields={**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 4},
        model_type="mixtral",
        options={"experts_implementation": "eager"},
    ),
    "dbrx": Small(
        fields={
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 4},
        }
    ),
    # Encoders.
    "bert": Small(fields=NO_DROPOUT, head="MaskedLM"),
    "roberta": Small(fields={**NO_DROPOUT, "max_position_embeddings": 64}, head="MaskedLM"),
    "distilbert": Small(
        fields={"dim": 64, "n_heads": 4, "n_layers": 2, "hidden_dim": 96, "dropout": 0.0, "attention_dropout": 0.0},
        head="MaskedLM",
    ),
    "deberta-v2": Small(
        fields={
            **NO_DROPOUT,
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
        },
        head="MaskedLM",
        # Its buckets of positions mix integers and floats, which the CPU brings to one type first (TensorIterator.cpp).
        kernels=("aten::div", "aten::mul"),
    ),
    "bert, choices": Small(fields=NO_DROPOUT, head="MultipleChoice", model_type="bert"),
    "bert, sentences": Small(fields=NO_DROPOUT, head="NextSentencePrediction", model_type="bert"),
    "bert, pretraining": Small(fields=NO_DROPOUT, head="PreTraining", model_type="bert"),
    "electra": Small(fields=NO_DROPOUT, head="SequenceClassification"),
    "albert": Small(fields={**NO_DROPOUT, "classifier_dropout_prob": 0.0}, head="TokenClassification"),
    "mpnet": Small(fields=NO_DROPOUT, head="QuestionAnswering"),
    # Encoders without a head, on pairs of texts. logsumexp has no name on meta for what it makes on the way
    # (ReduceOps.cpp): with CUDA's rules a kernel rule has.
    "bert, bare": Small(fields=NO_DROPOUT, head="", model_type="bert", kernels=("aten::logsumexp",)),
    "xlm-roberta, bare": Small(
        fields={**NO_DROPOUT, "sentence_pooling": "cls"},
        head="",
        model_type="xlm-roberta",
        kernels=("aten::logsumexp",),
    ),
    # Scans, position by position. The CPU copies what a convolution takes where it is not contiguous.
    "mamba": Small(fields=STATES, kernels=("aten::_convolution",)),
    "falcon_mamba": Small(fields=STATES, kernels=("aten::_convolution",)),
    "jamba": Small(
        fields={
            **GROUPED,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
        kernels=("aten::_convolution",),
    ),
    "zamba": Small(
        fields={
            "num_hidden_layers": 5,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba"],
            "num_key_value_heads": 4,
            "attention_hidden_size": 128,
            "attention_head_dim": 32,
            "n_mamba_heads": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
        },
        kernels=("aten::_convolution",),
    ),
    "rwkv": Small(fields={"attention_hidden_size": 64, "context_length": 64}),
    # Encoder-decoders.
    "t5": Small(
        fields={
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 96,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": 0.0,
            "use_cache": False,
            "decoder_start_token_id": 0,
        },
        head="Seq2SeqLM",
        common=False,
    ),
    "bart": Small(fields=ENCODER_DECODER, head="Seq2SeqLM", common=False),
    "bart, classes": Small(
        fields={**ENCODER_DECODER, "classifier_dropout": 0.0},
        head="SequenceClassification",
        common=False,
        model_type="bart",
        kernels=("aten::sum",),
    ),
    "whisper": Small(
        fields={**ENCODER_DECODER, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": LENGTH},
        head="SpeechSeq2Seq",
        common=False,
        # oneDNN's gradient of gelu takes contiguous tensors (mkldnn/Gelu.cpp).
        kernels=("aten::gelu_backward",),
    ),
    # Images, and images with text.
    "vit": Small(fields={**IMAGES, **NO_DROPOUT}, head="ImageClassification"),
    "clip": Small(
        fields={
            "text_config": {**COMMON, "max_position_embeddings": LENGTH},
            "vision_config": VISION,
            "projection_dim": 32,
        },
        head="",
        common=False,
    ),
    "llava": Small(
        fields={
            "text_config": {**COMMON, **GROUPED, "model_type": "llama"},
            "vision_config": VISION,
            "image_token_index": IMAGE_TOKEN,
        },
        head="ImageTextToText",
        common=False,
        kernels=OF_IMAGES,
    ),
    "llava_next": of_images(image_grid_pinpoints=[[16, 32], [32, 16]]),
    "llava_onevision": of_images(
        "qwen2",
        vision_type="siglip_vision_model",
        image_grid_pinpoints=[[16, 32], [32, 16]],
        vision_feature_select_strategy="full",
    ),
    "idefics2": of_images(
        vision_type="",
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 3,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        processor_settings={"size": {"shortest_edge": 8, "longest_edge": 16}},
    ),
    "paligemma": of_images("gemma", {"head_dim": 16}, "siglip_vision_model", projection_dim=64),
    "internvl": of_images("qwen2", vision={"image_size": [16, 16], "patch_size": [8, 8], "hidden_dropout_prob": 0.0}),
    "idefics3": of_images(scale_factor=2, processor_settings={"size": {"longest_edge": 32}}),
    "mllama": of_images(
        "",
        {"cross_attention_layers": [1]},
        "",
        {
            "attention_heads": 2,
            "num_global_layers": 1,
            "vision_output_dim": 64,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1], [2, 2]],
        },
    ),
    "qwen2_5_vl": of_images(
        "", MROPE, "", {**PATCHES, "window_size": 16, "fullatt_block_indexes": [1]}, processor_settings=_PIXELS
    ),
    "qwen3_vl": of_images(
        "",
        {**MROPE, "head_dim": 16},
        "",
        {**PATCHES, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        processor_settings=_PIXELS,
    ),
    "voxtral": Small(
        fields={
            "text_config": {**COMMON, **GROUPED, "model_type": "llama"},
            "audio_config": {
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_mel_bins": 8,
                "max_source_positions": 16,
            },
            "audio_token_id": IMAGE_TOKEN,
        },
        head="MultimodalLM",
        common=False,
        kernels=OF_IMAGES,
    ),
    "gemma3": Small(
        fields={
            "text_config": {**COMMON, **GROUPED, "head_dim": 16, "sliding_window": 8},
            "vision_config": VISION,
            "mm_tokens_per_image": 4,
            "image_token_id": IMAGE_TOKEN,
        },
        head="ImageTextToText",
        common=False,
        kernels=OF_IMAGES,
    ),
}


def build(
    device: str,
    name: str,
    *,
    adapter: bool = False,
    checkpointing: bool = False,
    reentrant: bool = False,
    cache: bool = False,
) -> Any:
    """Return the small model `name` on a device, with a batch for it."""
    small = SMALL[name]
    config = transformers.AutoConfig.for_model(
        small.model_type or name, **(COMMON if small.common else {}) | small.fields
    )
    auto: Any = getattr(transformers, f"AutoModelFor{small.head}" if small.head else "AutoModel")
    with torch.device(device):
        torch.manual_seed(0)
        base = model = auto.from_config(config, attn_implementation="eager", **small.options)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        if adapter:
            model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules="all-linear"))
    if cache:
        base.config.use_cache = True
    model.train()
    batch = {
        key: make_item(item, lambda part, key=key: _filled(key, part, device))  # type: ignore[misc]  # of this round
        for key, item in make_batch_inputs(base, RECIPE).items()
    }
    return model, batch


def _filled(name: str, item: Input, device: str) -> torch.Tensor:
    """Return an input on a device; on the CPU every token has an id of its own, and labels alternate."""
    if item.make is None and name in ("input_ids", "labels") and len(item.shape) == 2 and device == "cpu":
        ids = torch.arange(3, 3 + BATCH * LENGTH).reshape(item.shape)
        return ids if name == "input_ids" else ids % 2
    return item.on(device)
