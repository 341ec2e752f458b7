"""A document means what its framework makes of it in its version; slips and wrong types are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inspector.errors import UnsupportedModelError, UsageError
from inspector.training_files.frameworks import zero
from inspector.training_files.names import is_missing_path
from inspector.training_files.read import read_launch_file, read_training_file

from .documents import AXOLOTL, LLAMAFACTORY, MODEL, TRL, read, write


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [
        ("1.16", "gradient_checkpointing", True),
        ("0.22", "gradient_checkpointing", True),
        ("0.21.0", "gradient_checkpointing", False),
        ("0.19", "mixed_precision", "bf16"),
        ("0.18.2", "mixed_precision", "no"),
        ("0.27", "dtype", "float32"),
        ("0.26", "dtype", "auto"),
        ("0.9", "max_grad_norm", 1.0),
    ],
)
def test_a_default_is_that_of_the_version(version: str, name: str, value: object, tmp_path: Path) -> None:
    found = read(tmp_path, TRL, framework=f"trl=={version}")
    assert found.settings[name] == value
    assert (found.record.version, found.record.version_from) == (version, "option")


@pytest.mark.parametrize(
    ("version", "loss", "preparation", "adapter_dtype"),
    [
        ("1.16", "fused", "none", "bfloat16"),
        ("1.15", "fused", "none", "bfloat16"),
        ("1.14", "chunked", "none", "bfloat16"),
        ("1.7", "chunked", "none", "bfloat16"),
        ("1.6", "stock", "none", "bfloat16"),
        ("0.26", "stock", "none", "bfloat16"),
        ("0.25", "stock", None, None),
    ],
)
def test_what_trl_does_by_itself_is_that_of_the_version(
    version: str, loss: str, preparation: str | None, adapter_dtype: str | None, tmp_path: Path
) -> None:
    qlora = {**TRL, "use_peft": True, "load_in_4bit": True}
    found = read(tmp_path, qlora, framework=f"trl=={version}")
    names = ("loss", "preparation", "adapter_dtype", "attention_mask")
    assert [found.settings.get(name) for name in names] == [loss, preparation, adapter_dtype, True]
    assert found.record.not_modelled == ()


@pytest.mark.parametrize(
    ("version", "asked", "loss"),
    [
        ("1.16", "nll", "fused"),
        ("1.16", "chunked_nll", "fused"),
        ("1.10", "nll", "stock"),
        ("1.4", "chunked_nll", "chunked"),
    ],
)
def test_a_loss_that_a_trl_file_names_is_that_of_the_version(
    version: str, asked: str, loss: str, tmp_path: Path
) -> None:
    found = read(tmp_path, {**TRL, "loss_type": asked}, framework=f"trl=={version}")
    assert found.settings.get("loss") == loss
    assert found.record.not_modelled == ()


def test_a_loss_of_trl_that_is_not_traced_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, {**TRL, "loss_type": "dft"})
    assert [item.name for item in found.record.not_modelled] == ["loss_type"]
    assert "loss" not in found.settings


LAYERS = ("rope", "rms_norm", "swiglu", "geglu")


@pytest.mark.parametrize(
    ("version", "config", "loss", "kernels"),
    [
        ("1.16", None, "fused", LAYERS),
        ("1.10", None, "liger", LAYERS),
        ("1.10", {"fused_linear_cross_entropy": False, "rope": False}, "stock", LAYERS[1:]),
        ("1.6", None, "liger", LAYERS),
    ],
)
def test_ligers_kernels_of_a_trl_file_have_the_loss_of_the_version(
    version: str, config: dict[str, bool] | None, loss: str, kernels: tuple[str, ...], tmp_path: Path
) -> None:
    file = {**TRL, "use_liger_kernel": True, "liger_kernel_config": config}
    found = read(tmp_path, file, framework=f"trl=={version}")
    assert (found.settings["loss"], found.settings["liger"]) == (loss, kernels)
    assert found.record.not_modelled == ()


def test_ligers_kernels_of_llamafactory_have_its_loss_in_supervised_stages(tmp_path: Path) -> None:
    file = {**LLAMAFACTORY, "enable_liger_kernel": True}
    assert [read(tmp_path, file).settings[name] for name in ("loss", "liger")] == ["liger", LAYERS]
    preference = read(tmp_path, {**file, "stage": "dpo"})
    assert preference.settings["loss"] == "float32"  # of its DPO, with Liger or without
    assert "cross_entropy" in [item.name for item in preference.record.not_modelled]


def test_fields_of_axolotls_plugins_mean_nothing_without_them(tmp_path: Path) -> None:
    liger = {"liger_rope": True, "liger_glu_activation": True, "liger_fused_linear_cross_entropy": True}
    plugin = {"plugins": ["axolotl.integrations.liger.LigerPlugin"]}
    cut = {"plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"]}
    found = [
        read(tmp_path, {**AXOLOTL, **fields}).settings
        for fields in (liger, liger | plugin, cut, cut | {"cut_cross_entropy": False})
    ]
    assert [(item.get("loss"), item.get("liger")) for item in found] == [
        (None, None),
        ("liger", ("rope", "swiglu", "geglu")),
        ("cce", None),
        (None, None),
    ]


def test_dpo_keeps_pefts_preparation_until_later(tmp_path: Path) -> None:
    qlora = {**TRL, "use_peft": True, "load_in_4bit": True, "precompute_ref_log_probs": False, "rpo_alpha": 1.0}
    found = {version: read(tmp_path, qlora, framework=f"trl=={version}").settings for version in ("0.28", "0.29")}
    assert [found[version].get("preparation") for version in found] == [None, "none"]


def test_an_adapter_of_trl_is_bfloat16_on_packed_weights_alone(tmp_path: Path) -> None:
    for four_bits, dtype in ((True, "bfloat16"), (False, "auto")):
        found = read(tmp_path, {**TRL, "use_peft": True, "load_in_4bit": four_bits}, framework="trl==1.16")
        assert found.settings["adapter_dtype"] == dtype


@pytest.mark.parametrize("fields", [{"padding_free": True}, {"packing": True}])
def test_rows_that_follow_each_other_have_no_mask(fields: dict[str, Any], tmp_path: Path) -> None:
    assert "attention_mask" not in read(tmp_path, {**TRL, **fields}).settings


def test_llamafactory_prepares_nothing_and_trains_adapters_in_float32(tmp_path: Path) -> None:
    file = {"model_name_or_path": "Qwen/Qwen2.5-0.5B", "stage": "sft", "finetuning_type": "lora", "cutoff_len": 64}
    for fields, dtype in (({}, "float32"), ({"pure_bf16": True}, None)):
        found = read(tmp_path, {**file, **fields}).settings
        assert (found["preparation"], found.get("adapter_dtype"), found["attention_mask"]) == ("none", dtype, True)


def test_axolotl_prepares_in_its_own_way(tmp_path: Path) -> None:
    file = {"base_model": "Qwen/Qwen2.5-0.5B", "adapter": "qlora", "micro_batch_size": 1}
    for fields, mask in (({}, True), ({"sample_packing": True}, None)):
        found = read(tmp_path, {**file, **fields}).settings
        assert (found["preparation"], found.get("attention_mask")) == ("axolotl", mask)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {"dtype": "bfloat16", "mixed_precision": "bf16", "optimizer": "adamw_torch_fused"}),
        ({"bf16": "full"}, {"dtype": "bfloat16", "mixed_precision": "no"}),
        ({"bf16": False}, {"dtype": "float32", "mixed_precision": "no"}),
        ({"fp16": True}, {"dtype": "float16", "mixed_precision": "fp16"}),
        ({"sample_packing": True}, {"batch_size": 1, "seq_len": 256, "padding": False}),
        ({"batch_size": 8}, {"batch_size": 2, "gradient_accumulation": 4}),
        ({"batch_size": 8, "gradient_accumulation_steps": 3}, {"gradient_accumulation": 3}),
        ({"flash_attention": True}, {"attention": "flash_attention_2"}),
        ({"eager_attention": True}, {"attention": "eager"}),
        ({"gradient_checkpointing": "offload"}, {"gradient_checkpointing": False, "offload": "activations"}),
        ({"gradient_checkpointing": "offload", "adapter": None}, {"gradient_checkpointing": True}),
        ({"gradient_checkpointing": True, "activation_offloading": "hidden_states"}, {"offload": "checkpoints"}),
        ({"neftune_noise_alpha": 5}, {"neftune": 5}),
        (
            {"adapter": None, "unfrozen_parameters": ["^model.embed_tokens.weight$[:32]", "layers.2[0-9]+.mlp.*"]},
            {"train_only": ["^(?:^model[.]embed_tokens[.]weight$)", "^(?:layers[.]2[0-9]+[.]mlp.*)"]},
        ),
        ({"unfrozen_parameters": ["lm_head"]}, {"train_only": None}),
        ({"load_in_4bit": True}, {"quantization": "nf4", "double_quant": True}),
        ({"load_in_4bit": True, "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}, {"double_quant": False}),
        ({"load_in_8bit": True}, {"quantization": "int8"}),
        ({"deepspeed": "deepspeed_configs/zero3_bf16.json"}, {"sharding": "zero3"}),
        ({"deepspeed": "deepspeed_configs/zero1.json"}, {"sharding": "zero1"}),
        ({"fsdp_config": {"reshard_after_forward": True}}, {"sharding": "fsdp"}),
        ({"max_grad_norm": None}, {"max_grad_norm": 0.0}),
        ({"gradient_accumulation_steps": "4"}, {"gradient_accumulation": 4}),
    ],
    ids=str,
)
def test_fields_of_axolotl_mean_what_axolotl_makes_of_them(
    fields: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    found = read(tmp_path, AXOLOTL | fields).settings
    assert {name: found.get(name) for name in settings} == settings


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {"dtype": "auto", "gradient_checkpointing": True, "use_reentrant": True, "batch_size": 8}),
        ({"finetuning_type": "freeze"}, {"train_only": ["last=2"], "peft": None}),
        (
            {"finetuning_type": "freeze", "freeze_trainable_layers": -3, "freeze_extra_modules": "embed_tokens,norm"},
            {"train_only": ["first=3", "embed_tokens", "norm"]},
        ),
        ({"add_tokens": "<a>,<b>", "finetuning_type": "full"}, {"add_tokens": 64}),
        ({"neat_packing": True}, {"packing": 1, "padding": False}),
        ({"disable_gradient_checkpointing": True}, {"gradient_checkpointing": False, "use_reentrant": False}),
        ({"finetuning_type": "full", "bf16": True}, {"dtype": "float32", "peft": None}),
        ({"finetuning_type": "full", "pure_bf16": True}, {"dtype": "auto"}),
        ({"quantization_bit": 4}, {"quantization": "nf4", "double_quant": True}),
        ({"quantization_bit": 8}, {"quantization": "int8", "double_quant": None}),
        ({"flash_attn": "fa2"}, {"attention": "flash_attention_2"}),
        ({"flash_attn": "disabled"}, {"attention": "eager"}),
        ({"stage": "pt"}, {"padding": False}),
    ],
    ids=str,
)
def test_fields_of_llamafactory_mean_what_it_makes_of_them(
    fields: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    found = read(tmp_path, LLAMAFACTORY | fields).settings
    assert {name: found.get(name) for name in settings} == settings


def test_the_adapter_of_llamafactory_has_its_own_defaults(tmp_path: Path) -> None:
    named = LLAMAFACTORY | {"lora_rank": 4, "lora_target": "q_proj, v_proj", "additional_target": "lm_head"}
    found = read(tmp_path, named).settings["peft"]
    assert (found.r, found.alpha, found.dropout) == (4, 8, 0.0)
    assert (found.targets, found.modules_to_save) == (("q_proj", "v_proj"), ("lm_head",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (AXOLOTL | {"finetuning_type": "lora"}, "keys of two frameworks, base_model of axolotl and finetuning_type"),
        (AXOLOTL | {"model_name_or_path": MODEL}, "keys of two frameworks"),
        ({"base_model": MODEL, "micro_batch_sizes": 2}, "did you mean micro_batch_size?"),
        ({"base_model": MODEL, "sequence-len": 2}, "did you mean sequence_len?"),
        (AXOLOTL | {"micro_batch_size": "two"}, "micro_batch_size is 'two' (str); give an integer of at least 1"),
        (AXOLOTL | {"micro_batch_size": 0}, "micro_batch_size is 0 (int)"),
        (AXOLOTL | {"micro_batch_size": True}, "micro_batch_size is True (bool)"),
        (AXOLOTL | {"micro_batch_size": [2]}, "micro_batch_size is of type 'list'"),
        (AXOLOTL | {"lora_target_modules": {"a": 1}}, "a name or a list of names"),
        (AXOLOTL | {"optimizer": "adamm"}, "optimizer is 'adamm' (str); give an optimizer"),
        (AXOLOTL | {"bf16": "maybe"}, "give true, false, auto or full"),
        (AXOLOTL | {"max_grad_norm": float("nan")}, "a number of at least 0"),
        (LLAMAFACTORY | {"stage": "sftt"}, "stage is 'sftt'"),
        (LLAMAFACTORY | {"finetuning_type": "lorra"}, "finetuning_type is 'lorra'"),
        (TRL | {"dtype": "float12"}, "dtype is 'float12'"),
        (TRL | {"bf16": True, "fp16": True}, "one of bf16 and fp16"),
        ({"foo": 1}, "is no file of a trainer that is known here"),
        ({"distributed_type": "FSDP"}, "says how accelerate launches a run and names no model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_framework_reads_so_is_one_line(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, content)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_framework_that_was_named_settles_whose_file_it_is(tmp_path: Path) -> None:
    both = AXOLOTL | {"finetuning_type": "lora"}
    found = read(tmp_path, both, framework="axolotl")
    assert (found.record.framework, found.record.unknown) == ("axolotl", ("finetuning_type",))


def test_a_field_that_is_not_known_is_named_and_never_shown(tmp_path: Path) -> None:
    found = read(tmp_path, AXOLOTL | {"my_secret": "hf_SECRETSECRETSECRETSECRET"}).record
    assert found.unknown == ("my_secret",)
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_target_modules": ["hf_SECRETSECRETSECRETSECRET"]},
        {"plugins": ["https://user:SECRETSECRET@host/x"]},
        {"fsdp_config": {"api_key": "SECRETSECRET"}},
        {"deepspeed": {"wandb": {"token": "SECRETSECRET"}}},
    ],
    ids=str,
)
def test_a_secret_in_a_field_that_is_known_is_hidden(fields: dict[str, Any], tmp_path: Path) -> None:
    assert "SECRET" not in repr(read(tmp_path, AXOLOTL | fields).record)


@pytest.mark.parametrize("content", [AXOLOTL, LLAMAFACTORY, TRL], ids=["axolotl", "LLaMA-Factory", "TRL"])
def test_no_file_allows_code_of_a_repository_to_run(content: dict[str, Any], tmp_path: Path) -> None:
    assert "trust_remote_code" not in read(tmp_path, content | {"trust_remote_code": True}).settings


@pytest.mark.parametrize(
    "content",
    [
        '{"architectures": ["LlamaForCausalLM"]}',
        '{"peft_type": "LORA", "base_model_name_or_path": "x/y"}',
        '{"schema": "inspector/1"}',
        '{"model_type": "llama", "hidden_size": 4}',
        '{"foo": 1}',
        "{",
    ],
)
def test_a_json_of_a_model_is_left_to_the_source(content: str, tmp_path: Path) -> None:
    assert read_training_file(write(tmp_path, content, "config.json")) is None


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "model.bin", "folder", "x.json"])
def test_what_is_no_file_of_that_kind_is_left_to_the_source(name: str) -> None:
    assert read_training_file(name) is None


def test_a_torchtune_file_is_no_request(tmp_path: Path) -> None:
    content = {"model": {"_component_": "torchtune.models.llama3_1.llama3_1_8b"}, "batch_size": 2}
    with pytest.raises(
        UnsupportedModelError, match=r"is torchtune.s.*inspect meta-llama/Meta-Llama-3.1-8B --batch-size 2"
    ):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        ({"distributed_type": "MULTI_GPU", "num_processes": 4}, {"gpu_count": 4}),
        # Without a version accelerate takes the first.
        (
            {"distributed_type": "FSDP", "num_processes": 2},
            {"gpu_count": 2, "sharding": "fsdp1", "sharding_settings": {"wrap_policy": "NO_WRAP"}},
        ),
        (
            {
                "distributed_type": "FSDP",
                "fsdp_config": {"fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP"},
            },
            # What `accelerate launch` does of itself.
            {"sharding": "fsdp", "sharding_settings": {"cpu_ram_efficient_loading": True}},
        ),
        (
            {
                "distributed_type": "FSDP",
                "fsdp_config": {
                    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                    "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer,CLIPEncoderLayer",
                    "fsdp_backward_prefetch": "BACKWARD_PRE",
                    "fsdp_use_orig_params": False,
                },
            },
            {
                "sharding": "fsdp1",
                "sharding_settings": {
                    "wrapped_classes": ("LlamaDecoderLayer", "CLIPEncoderLayer"),
                    "backward_prefetch": "BACKWARD_PRE",
                    "use_orig_params": False,
                },
            },
        ),
        (
            {"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}},
            {
                "sharding": "fsdp1",
                "sharding_settings": {"sharding_strategy": "SHARD_GRAD_OP", "wrap_policy": "NO_WRAP"},
            },
        ),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "NO_SHARD"}}, {}),
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 1}},
            {"sharding": "zero1", "sharding_settings": {"config": {"zero_optimization": {}}}},
        ),
        (
            {
                "distributed_type": "DEEPSPEED",
                "deepspeed_config": {
                    "zero_stage": 3,
                    "offload_optimizer_device": "cpu",
                    "offload_param_device": "none",
                },
            },
            {
                "sharding": "zero3",
                "sharding_settings": {"config": {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}},
            },
        ),
        ({"zero_optimization": {"stage": 0}}, {}),
        (
            {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}},
            {
                "sharding": "zero3",
                "sharding_settings": {"config": {"zero_optimization": {"stage": 3}}},
                "mixed_precision": "bf16",
            },
        ),
        (
            {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 4},
            {
                "sharding": "zero2",
                "sharding_settings": {"config": {"zero_optimization": {"stage": 2}}},
                "batch_size": 4,
            },
        ),
    ],
    ids=str,
)
def test_a_launcher_says_how_many_cards_share_what(
    content: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    assert read_launch_file(write(tmp_path, content)).settings == settings


@pytest.mark.parametrize("content", [AXOLOTL, {"foo": 1}])
def test_what_no_launcher_reads_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither accelerate's YAML nor DeepSpeed's JSON"):
        read_launch_file(write(tmp_path, content))


def test_the_file_that_deepspeed_names_is_read_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}', encoding="utf-8")
    assert read(tmp_path, AXOLOTL | {"deepspeed": "ds.json"}).settings["sharding"] == "zero1"
    assert read(tmp_path, LLAMAFACTORY | {"deepspeed": "z2.json"}).settings["sharding"] == "zero2"


def test_what_the_file_that_deepspeed_names_keeps_on_a_disk_is_refused(tmp_path: Path) -> None:
    offload = {"stage": 3, "offload_param": {"device": "nvme"}}
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": offload}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"zero_optimization\.offload_param is on nvme.*; let it wait on the cpu"):
        read(tmp_path, AXOLOTL | {"deepspeed": "ds.json"})


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_stage_of_zero_is_modelled_where_deepspeed_is_there_to_run_it(
    is_installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero, "has_deepspeed", lambda: is_installed)
    offload = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    found = read_launch_file(write(tmp_path, {"zero_optimization": offload}))
    names = {item.name for item in found.record.not_modelled}
    assert names == (set() if is_installed else {"zero_optimization", "zero_optimization.offload_optimizer"})


@pytest.mark.parametrize(
    ("fields", "path", "stage"),
    [
        ({}, "train.yaml", "sft"),
        ({"loss_type": "nll"}, "train.yaml", "sft"),
        ({"loss_type": ["sigmoid", "bco_pair"]}, "train.yaml", "dpo"),
        ({"loss_type": "apo_zero"}, "train.yaml", "dpo"),
        ({"beta": 0.1}, "train.yaml", "dpo"),
        ({"beta": 0.1}, "orpo.yaml", "orpo"),
        ({"desirable_weight": 1.0}, "train.yaml", "kto"),
        ({"num_generations": 4, "beta": 0.1}, "train.yaml", "grpo"),
        ({"loss_type": "dapo"}, "train.yaml", "grpo"),
        ({"center_rewards_coefficient": 0.1}, "train.yaml", "reward"),
    ],
    ids=str,
)
def test_the_stage_of_a_trl_file_follows_from_its_fields(
    fields: dict[str, Any], path: str, stage: str, tmp_path: Path
) -> None:
    found = read(tmp_path, TRL | fields, path)
    assert found.record.stage == stage
    assert found.settings.get("stage") == (None if stage == "sft" else stage)


@pytest.mark.parametrize("name", ["https://huggingface.co/org/name", "hf.co/org/name", "org/name", "gpt2"])
def test_an_address_of_the_hub_is_no_missing_path(name: str) -> None:
    assert not is_missing_path(name)


def test_the_usual_branch_is_no_revision(tmp_path: Path) -> None:
    assert "revision" not in read(tmp_path, TRL | {"model_revision": "main"}).settings
    assert read(tmp_path, TRL | {"model_revision": "v1"}).settings["revision"] == "v1"
