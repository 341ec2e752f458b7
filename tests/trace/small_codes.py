"""Small models of speech, of codes of sound and of marked text, each with its batch, as `small_tasks` has them."""

from __future__ import annotations

from typing import Any

from tests.trace.small_tasks import SmallTask

__all__ = ["SMALL_CODES"]

_NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TEXT: dict[str, Any] = {"vocab_size": 160, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER: dict[str, Any] = {
    **_TEXT,
    **_NO_DROPOUT,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_ON_PAGES: dict[str, Any] = {**_ENCODER, "hidden_size": 64}
_DECODER: dict[str, Any] = {
    **_TEXT,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "use_cache": False,
}
_CONFORMER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_mel_bins": 8,
    "subsampling_conv_channels": 8,
    "conv_kernel_size": 3,
    "dropout": 0.0,
    "dropout_positions": 0.0,
    "layerdrop": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
}
_MIMI: dict[str, Any] = {
    "model_type": "mimi",
    "hidden_size": 16,
    "num_filters": 4,
    "num_residual_layers": 1,
    "upsampling_ratios": [4, 2],
    "codebook_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "num_semantic_quantizers": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "sampling_rate": 16000,
    "frame_rate": 1000.0,
    "upsample_groups": 16,
    "use_cache": False,
}
_MUSIC: dict[str, Any] = {
    "text_encoder": {
        "model_type": "t5",
        "vocab_size": 160,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 1,
        "num_heads": 2,
        "dropout_rate": 0.0,
    },
    "audio_encoder": {"model_type": "encodec", "num_filters": 4, "hidden_size": 8, "upsampling_ratios": [2, 2]},
    "decoder": {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 48,
        "num_codebooks": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 39,
        "bos_token_id": 39,
        "dropout": 0.0,
        "use_cache": False,
    },
}
_SPEECH_TO_TEXT: dict[str, Any] = {
    "vocab_size": 160,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "dropout": 0.0,
    "input_feat_per_channel": 8,
    "conv_channels": 16,
    "max_source_positions": 64,
    "max_target_positions": 64,
    "use_cache": False,
}
# Kernels of the CPU that cast what they are given first, where CUDA's do so number by number.
_CASTING = ("aten::mul_", "aten::sum", "aten::masked_select", "aten::_convolution")
# Batch norms keep sums for each thread.
_NORMS = ("aten::native_batch_norm", "aten::native_batch_norm_backward")

SMALL_CODES: dict[str, SmallTask] = {
    "linked boxes": SmallTask(model_type="bros", model_class="BrosSpadeEEForTokenClassification", fields=_ON_PAGES),
    "spans of entities": SmallTask(
        model_type="luke",
        model_class="LukeForEntitySpanClassification",
        fields={**_ENCODER, "entity_vocab_size": 20, "entity_emb_size": 16, "num_labels": 3},
        kernels=("aten::cat",),
    ),
    "questions in place of spans": SmallTask(
        model_type="splinter", model_class="SplinterForPreTraining", fields=_ENCODER
    ),
    "cells of a table": SmallTask(
        model_type="tapas",
        model_class="TapasForQuestionAnswering",
        fields=_ENCODER,
        kernels=("aten::scatter_reduce", "aten::logsumexp", "aten::binary_cross_entropy_with_logits"),
    ),
    "transcripts of a conformer": SmallTask(
        model_type="canary",
        model_class="CanaryForConditionalGeneration",
        fields={
            "encoder_config": _CONFORMER,
            "decoder_config": _DECODER,
            "vocab_size": 160,
            "pad_token_id": 0,
            "use_cache": False,
        },
        kernels=(*_CASTING, *_NORMS, "aten::mul"),
    ),
    "transcripts of stacked bins": SmallTask(
        model_type="speech_to_text", model_class="Speech2TextForConditionalGeneration", fields=_SPEECH_TO_TEXT
    ),
    "delayed codes": SmallTask(
        model_type="dia",
        model_class="DiaForConditionalGeneration",
        fields={
            "encoder_config": {**_DECODER},
            "decoder_config": {
                **_DECODER,
                "cross_num_attention_heads": 2,
                "cross_num_key_value_heads": 2,
                "cross_head_dim": 16,
                "cross_hidden_size": 32,
                "num_channels": 3,
            },
            "delay_pattern": [0, 1, 2],
            "use_cache": False,
        },
    ),
    "codes of music": SmallTask(model_type="musicgen", model_class="MusicgenForConditionalGeneration", fields=_MUSIC),
    "text beside codes": SmallTask(
        model_type="kyutai_speech_to_text",
        model_class="KyutaiSpeechToTextForConditionalGeneration",
        fields={
            **_DECODER,
            "ffn_dim": 96,
            "num_codebooks": 3,
            "codebook_vocab_size": 33,
            "audio_pad_token_id": 255,
            "codec_config": _MIMI,
        },
    ),
    "text and its codes": SmallTask(
        model_type="higgs_audio_v2",
        model_class="HiggsAudioV2ForConditionalGeneration",
        fields={
            **_DECODER,
            "num_codebooks": 3,
            "codebook_size": 40,
            "audio_token_id": 150,
            "audio_delay_token_id": 151,
        },
        kernels=(*_CASTING, "aten::_log_softmax"),
    ),
    "speech and its codec": SmallTask(
        model_type="csm",
        model_class="CsmForConditionalGeneration",
        fields={
            **_DECODER,
            "vocab_size": 20,
            "text_vocab_size": 160,
            "num_codebooks": 4,
            "audio_token_id": 150,
            "audio_eos_token_id": 151,
            "codebook_pad_token_id": 19,
            "depth_decoder_config": {**_DECODER, "vocab_size": 20, "num_codebooks": 4, "backbone_hidden_size": 32},
            "codec_config": _MIMI,
        },
        kernels=(*_CASTING, "aten::_cdist_forward"),
    ),
    "latents of speech": SmallTask(
        model_type="pocket_tts",
        model_class="PocketTTSForConditionalGeneration",
        fields={
            **_DECODER,
            "latent_dim": 8,
            "audio_prompt_token_id": 156,
            "audio_latent_token_id": 157,
            "audio_prompt_bos_token_id": 158,
            "audio_bos_token_id": 159,
            "lsd_distill_probability": 0.0,
            "flow_head_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "latent_dim": 8,
                "condition_dim": 32,
                "frequency_embedding_size": 16,
                "loss_weighting_hidden_size": 8,
            },
        },
        kernels=_CASTING,
    ),
    "units of text": SmallTask(
        model_type="seamless_m4t",
        model_class="SeamlessM4TTextToUnitForConditionalGeneration",
        fields={
            "hidden_size": 32,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "t2u_vocab_size": 40,
            "t2u_max_position_embeddings": 64,
            "t2u_encoder_layers": 1,
            "t2u_decoder_layers": 1,
            "t2u_encoder_ffn_dim": 48,
            "t2u_decoder_ffn_dim": 48,
            "t2u_encoder_attention_heads": 2,
            "t2u_decoder_attention_heads": 2,
            "use_cache": False,
        },
    ),
    "transcripts with an adapter": SmallTask(
        model_type="seamless_m4t",
        model_class="SeamlessM4TForSpeechToText",
        fields={
            "vocab_size": 160,
            "hidden_size": 32,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "decoder_layers": 1,
            "decoder_ffn_dim": 48,
            "decoder_attention_heads": 2,
            "speech_encoder_layers": 1,
            "speech_encoder_attention_heads": 2,
            "speech_encoder_intermediate_size": 48,
            "speech_encoder_layerdrop": 0.0,
            "feature_projection_input_dim": 8,
            "adaptor_dropout": 0.0,
            "conv_depthwise_kernel_size": 3,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        kernels=(*_CASTING, *_NORMS),
    ),
    "experts by name": SmallTask(
        model_type="switch_transformers",
        model_class="SwitchTransformersForConditionalGeneration",
        fields={
            **_TEXT,
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 48,
            "num_layers": 2,
            "num_sparse_encoder_layers": 1,
            "num_decoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_heads": 2,
            "num_experts": 1,
            "dropout_rate": 0.0,
            "router_jitter_noise": 0.0,
            "decoder_start_token_id": 0,
            "use_cache": False,
        },
        kernels=("aten::mul",),
    ),
    "a code after others": SmallTask(
        model_type="qwen3_omni_moe_talker_code_predictor",
        model_class="Qwen3OmniMoeTalkerCodePredictorModelForConditionalGeneration",
        fields={**_DECODER, "vocab_size": 40, "num_code_groups": 4},
    ),
    "both who speak": SmallTask(
        model_type="moshi",
        model_class="MoshiForConditionalGeneration",
        fields={
            **_DECODER,
            "ffn_dim": 96,
            "num_codebooks": 2,
            "audio_vocab_size": 40,
            "audio_encoder_config": _MIMI,
            "depth_decoder_config": {
                **_DECODER,
                "ffn_dim": 96,
                "input_size": 32,
                "num_codebooks": 2,
                "audio_vocab_size": 40,
            },
        },
    ),
    "bytes in patches": SmallTask(
        model_type="blt",
        model_class="BltForCausalLM",
        kernels=("aten::logsumexp", "aten::sum", "aten::mul"),
        # Every entropy is above the threshold, and a patch is one byte: what is assumed holds.
        fields={
            "vocab_size": 160,
            "patching_threshold": -1.0,
            "patch_size": 1,
            "encoder_hash_byte_group_size": [2],
            "encoder_hash_byte_group_vocab": 64,
            "patcher_config": {**_DECODER, "num_hidden_layers": 1},
            "encoder_config": {**_DECODER, "num_hidden_layers": 1},
            "decoder_config": {**_DECODER, "num_hidden_layers": 1, "hidden_size_global": 64},
            "global_config": {**_DECODER, "num_hidden_layers": 1, "hidden_size": 64, "head_dim": 32},
            "use_cache": False,
        },
    ),
}
