"""Every method of PEFT and every variant of LoRA on small models: whether it is counted, and its step traced.

Held against PEFT are the parameters that train, all of them, and the size of the file that `save_pretrained` writes; a
real step on the CPU says whether such an adapter trains at all.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import config as lora
from transformers import CONFIG_MAPPING, PretrainedConfig

import inspector
from tests.evidence.coverage.classes import list_broken_laws
from tests.model.test_adapter_file import FIELDS

__all__ = ["judge_adapter", "list_adapters"]

Fields = dict[str, Any]

_SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "vocab_size": 256,
}
_DECODER = {**_SIZES, "num_key_value_heads": 2, "dtype": "bfloat16", "tie_word_embeddings": False, "pad_token_id": 0}
_MODELS: Mapping[str, Fields] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **_DECODER},
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **_DECODER,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "t5": {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": 256,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "dtype": "float32",
        "tie_word_embeddings": True,
    },
    "bert": {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        **_SIZES,
        "max_position_embeddings": 128,
        "dtype": "float32",
    },
    "vit": {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "image_size": 32,
        "patch_size": 8,
        "dtype": "float32",
    },
}
_TASKS = {"llama": "CAUSAL_LM", "mixtral": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM", "bert": "SEQ_CLS"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a method is told of a model."""

    attention: tuple[str, ...]
    feed_forward: str
    norm: str
    embedding: str | None
    head: str
    layers: str


_LLAMA = Parts(
    attention=("q_proj", "v_proj"),
    feed_forward="down_proj",
    norm="input_layernorm",
    embedding="embed_tokens",
    head="lm_head",
    layers="layers",
)
_PARTS = {
    "llama": _LLAMA,
    "mixtral": dataclasses.replace(_LLAMA, feed_forward="o_proj"),
    "t5": Parts(
        attention=("q", "v"), feed_forward="wo", norm="layer_norm", embedding="shared", head="lm_head", layers="block"
    ),
    "bert": Parts(
        attention=("query", "value"),
        feed_forward="output.dense",
        norm="LayerNorm",
        embedding="word_embeddings",
        head="classifier",
        layers="layer",
    ),
    "vit": Parts(
        attention=("q_proj", "v_proj"),
        feed_forward="fc2",
        norm="layernorm_before",
        embedding=None,
        head="classifier",
        layers="layers",
    ),
}
_METHODS: Mapping[str, Fields] = {
    **FIELDS,
    "CPT": {"cpt_token_ids": [1, 2, 3], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]},
    "XLORA": {"hidden_size": 64},
}
_WITHOUT_TARGETS = (
    *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"),
    # SHADOW wraps whole blocks, by default every one.
    *("XLORA", "TRAINABLE_TOKENS", "SHADOW"),
)
# What is told which task a row is of.
_OF_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")
# Settings of LoRA that are objects of their own.
_NESTED = {
    "eva_config": "EvaConfig",
    "corda_config": "CordaConfig",
    "lora_ga_config": "LoraGAConfig",
    "velora_config": "VeloraConfig",
    "monteclora_config": "MontecloraConfig",
    "arrow_config": "ArrowConfig",
    "kasa_config": "KasaConfig",
    "use_bdlora": "BdLoraConfig",
    "runtime_config": "LoraRuntimeConfig",
}


def list_adapters() -> list[dict[str, Any]]:
    """Return the model, the method and PEFT's fields of every case."""
    cases: list[dict[str, Any]] = []
    for model, parts in _PARTS.items():
        for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items():
            fields = _list_fields(kind.value, parts, {item.name for item in dataclasses.fields(config_class)})
            cases.append({"model": model, "method": kind.value, "fields": fields})
        for name, fields in _list_variants(model, parts).items():
            whole = {"peft_type": "LORA", "r": 4, "target_modules": [*parts.attention], **fields}
            cases.append({"model": model, "method": f"LoRA {name}", "fields": whole})
    return [{**case, "fields": {**case["fields"], "task_type": _TASKS.get(case["model"])}} for case in cases]


def judge_adapter(case: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found out of an adapter, a part at a time."""
    path = str(folder / "config.json")
    Path(path).write_text(json.dumps(_MODELS[case["model"]]))
    adapter = {"peft": copy.deepcopy(case["fields"])}
    counted = None
    try:
        report = inspector.inspect(path, offline=True, count_only=True, **adapter)
        assert report.adapter is not None
        counted = (report.parameters.trainable, report.parameters.total, report.adapter.file_bytes)
        yield {"counted": True}
    except inspector.InspectorError as error:
        yield {"counted": False, "reason": str(error)[:300]}
    yield from _hold_against_peft(case, counted)
    if counted is not None:
        yield from _trace(path, adapter)


def _trace(path: str, adapter: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield whether the step is traced."""
    try:
        report = inspector.inspect(path, offline=True, **adapter)
    except inspector.InspectorError as error:
        yield {"traced": False, "reason": str(error)[:300]}
        return
    if report.training is None:
        reason = next((item.message for item in report.warnings if item.code == "not-traced"), "no run")
        yield {"traced": False, "reason": reason}
        return
    broken = list_broken_laws(report.training)
    yield {"traced": True, **({"broken": broken} if broken else {})}


def _hold_against_peft(case: dict[str, Any], counted: tuple[int, int, int | None] | None) -> Iterator[dict[str, Any]]:
    """Yield whether PEFT attaches the adapter to real tensors, as many parameters and bytes, and whether it trains."""
    base = _build_base(case["model"])
    try:
        with tempfile.TemporaryDirectory() as saved:
            model = peft.get_peft_model(base, _make_config(_save_mixed(case, saved, base)))
    except Exception as error:
        yield {"attaches": False, "peft": f"{type(error).__name__}: {error}"[:200]}
        return
    real = model.get_nb_trainable_parameters()
    yield {"attaches": True, "equal": None if counted is None else counted[:2] == real}
    with tempfile.TemporaryDirectory() as saved:
        try:
            model.save_pretrained(saved)
            size = (Path(saved) / "adapter_model.safetensors").stat().st_size
            known = None if counted is None else counted[2]
            yield {"file_equal": None if known is None else known == size}
        except Exception:
            yield {"file_equal": None}
    try:
        model.train()
        tasks = {"task_ids": torch.zeros(2, dtype=torch.int64)} if case["method"] in _OF_TASKS else {}
        optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad])
        for _ in range(2):
            model(**_make_batch(case["model"]), **tasks).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        yield {"trains": True}
    except Exception as error:
        yield {"trains": False, "peft": f"{type(error).__name__}: {error}"[:200]}


def _save_mixed(case: dict[str, Any], folder: str, base: Any) -> Fields:
    """Return the fields of a case, with the folders in which the adapters are that it mixes, if it does."""
    fields: Fields = case["fields"]
    if case["method"] != "XLORA":
        return fields
    base.config.use_cache = False
    for name, alone in fields["adapters"].items():
        config = _make_config({**alone, "task_type": fields["task_type"]})
        peft.get_peft_model(_build_base(case["model"]), config).save_pretrained(f"{folder}/{name}")
    return {**fields, "adapters": {name: f"{folder}/{name}" for name in fields["adapters"]}}


def _list_fields(name: str, parts: Parts, known: set[str]) -> Fields:
    """Return the fields of a method on a model."""
    fields: Fields = {"peft_type": name, **_METHODS.get(name, {})}
    if "target_modules" in known and name not in _WITHOUT_TARGETS:
        fields["target_modules"] = [parts.norm] if name == "LN_TUNING" else [*parts.attention]
    if name == "IA3":
        fields |= {
            "target_modules": [*parts.attention, parts.feed_forward],
            "feedforward_modules": [parts.feed_forward],
        }
    if name == "XLORA":
        alone = {"peft_type": "LORA", "r": 4, "target_modules": [*parts.attention]}
        fields["adapters"] = {"0": alone, "1": {**alone, "r": 8}}
    if name == "TRAINABLE_TOKENS" and parts.embedding:
        fields["target_modules"] = [parts.embedding]
    return fields


def _list_variants(model: str, parts: Parts) -> dict[str, Fields]:
    """Return what LoRA is told beside its rank and targets, by a name."""
    first, second = parts.attention
    every: Fields = {"target_modules": "all-linear"}
    found: dict[str, Fields] = {
        "plain": {},
        "all-linear": every,
        "default targets": {"target_modules": None},
        "regex": {"target_modules": rf".*({first}|{second})$"},
        "dropout": {"lora_dropout": 0.1},
        "dora": {"use_dora": True},
        "dora all-linear": {"use_dora": True, **every},
        "rslora": {"use_rslora": True},
        "lora_bias": {"lora_bias": True},
        **{
            f"init {name}": {"init_lora_weights": name}
            for name in ("gaussian", "pissa", "pissa_niter_4", "olora", "orthogonal", "mica")
        },
        "init False": {"init_lora_weights": False},
        "init eva": {"init_lora_weights": "eva", "eva_config": {}},
        "init loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
        "init corda": {"init_lora_weights": "corda", "corda_config": {}},
        "init lora_ga": {"init_lora_weights": "lora_ga", "lora_ga_config": {}},
        "layers_to_transform": {"layers_to_transform": [1]},
        "layers_pattern": {"layers_to_transform": [1], "layers_pattern": parts.layers},
        "rank_pattern": {"rank_pattern": {first: 3}},
        "alpha_pattern": {"alpha_pattern": {first: 5}},
        "rank_pattern regex": {"rank_pattern": {rf".*\.1\..*{first}": 3}},
        "exclude_modules": {**every, "exclude_modules": [second]},
        "modules_to_save head": {"modules_to_save": [parts.head]},
        "bias all": {"bias": "all"},
        "bias lora_only": {"bias": "lora_only"},
        "megatron": {"megatron_config": {"hidden_size": 64}},
        "runtime_config": {"runtime_config": {"ephemeral_gpu_offload": True}},
        "qalora": {"use_qalora": True, "qalora_group_size": 16},
        "velora": {"velora_config": {}},
        "monteclora": {"monteclora_config": {}},
        "kasa": {"kasa_config": {}},
        "bdlora": {"use_bdlora": {"target_modules_bd_a": [first], "target_modules_bd_b": [second], "nblocks": 2}},
        "target_parameters": {"target_modules": [], "target_parameters": [f"{first}.weight"]},
    }
    if parts.embedding:
        found |= {
            "modules_to_save embedding": {"modules_to_save": [parts.embedding]},
            "target embedding": {"target_modules": [parts.embedding, first, second]},
            "token indices": {"trainable_token_indices": [1, 2]},
            "token indices by name": {"trainable_token_indices": {parts.embedding: [1, 2]}},
            "modules_to_save tied": {"modules_to_save": [parts.embedding, parts.head], "ensure_weight_tying": True},
        }
    if _TASKS.get(model) == "CAUSAL_LM":
        found |= {
            "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
            "alora": {"alora_invocation_tokens": [1, 2]},
            "arrow": {"arrow_config": {"top_k": 1}},
            "target lm_head": {"target_modules": ["lm_head", "q_proj"]},
        }
    if model == "mixtral":
        down = {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}
        found |= {
            "target_parameters experts": {
                "target_modules": ["q_proj"],
                "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            },
            "target router": {"target_modules": ["gate"]},
            "dora experts": {"use_dora": True, **down},
            "rslora experts": {"use_rslora": True, **down},
        }
    return found


def _make_config(fields: Fields) -> peft.PeftConfig:
    """Return PEFT's configuration of fields, nested ones made as its documentation shows."""
    made = dict(copy.deepcopy(fields))
    for name, class_name in _NESTED.items():
        if isinstance(made.get(name), dict):
            made[name] = (getattr(lora, class_name, None) or getattr(peft, class_name))(**made[name])
    config: peft.PeftConfig = peft.PeftConfig.from_peft_type(**made)
    return config


@functools.cache
def _make_base_config(model: str) -> PretrainedConfig:
    """Return the configuration of a model."""
    fields = _MODELS[model]
    config: PretrainedConfig = CONFIG_MAPPING[fields["model_type"]].from_dict(copy.deepcopy(fields))
    return config


def _build_base(model: str) -> Any:
    """Return a model with values."""
    config = copy.deepcopy(_make_base_config(model))
    torch.manual_seed(0)
    assert config.architectures
    return getattr(transformers, config.architectures[0])._from_config(config, dtype=config.dtype)


def _make_batch(model: str) -> dict[str, torch.Tensor]:
    """Return a small batch with values."""
    if model == "vit":
        return {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    ids = torch.randint(3, 200, (2, 16))
    return {"input_ids": ids, "labels": torch.tensor([0, 1]) if model == "bert" else ids.clone()}
