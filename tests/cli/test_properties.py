"""Laws over random input: whatever JSON comes, the command ends with a code of the contract and at most one line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .running import SMALL, Ran, assert_refused, bundled_config, run, written

NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 8, 64, 10**6, 10**9, 2**31, 2**63, 0.5, -0.5, 1e308, float("inf")])
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["all-linear", "q_proj", "auto"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
TYPES = ("qwen2", "gpt2", "bert", "t5", "mixtral", "llava", "mamba", "vit", "clip", "deepseek_v3", "gemma3", "none")
CONFIG_KEYS = sorted(
    {"architectures", "auto_map", "dtype", "torch_dtype", "id2label", "quantization_config", "rope_parameters"}
    | {"text_config", "vision_config", "layer_types", "num_labels", "_attn_implementation", "is_decoder"}
    | set(bundled_config(SMALL))
    | set(bundled_config("google-t5/t5-small"))
    | set(bundled_config("mistralai/Mixtral-8x7B-v0.1"))
)
PEFT_TYPES = ("LORA", "IA3", "LOHA", "ADALORA", "VERA", "PROMPT_TUNING", "LN_TUNING", "OFT", "POLY", "XLORA", "none")
PEFT_KEYS = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias", "use_dora", "task_type"),
    *("rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "exclude_modules", "init_lora_weights"),
    *("target_parameters", "num_virtual_tokens", "layer_replication", "feedforward_modules", "total_step", "n_skills"),
    *("trainable_token_indices", "base_model_name_or_path", "inference_mode", "loftq_config", "ensure_weight_tying"),
)


def objects(kinds: tuple[str, ...], kind: str, keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return JSON objects that mostly name a kind that exists and mix known keys with others."""
    fields = st.dictionaries(st.sampled_from(keys) | st.text(max_size=6), VALUES, max_size=5)
    return st.tuples(fields, st.sampled_from(kinds)).map(lambda pair: {kind: pair[1], **pair[0]})


def check(ran: Ran, code: int) -> None:
    """Hold a run against the contract: a report, or one line with the code of what was wrong."""
    if ran.code == 0:
        assert ran.report["parameters"]["base"] >= 0
    else:
        assert_refused(ran, code)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(objects(TYPES, "model_type", CONFIG_KEYS))
def test_any_object_as_configuration_is_counted_or_refused(config: dict[str, Any]) -> None:
    """Nothing that a config.json can hold ends in a traceback."""
    with tempfile.TemporaryDirectory() as folder:
        check(run(written(Path(folder), config), "--count-only", "--json"), 4)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(objects(PEFT_TYPES, "peft_type", list(PEFT_KEYS)))
def test_any_object_as_adapter_is_counted_or_refused(config: dict[str, Any]) -> None:
    """Nothing that an adapter_config.json can hold ends in a traceback."""
    check(run(SMALL, "--offline", "--count-only", "--json", "--peft", json.dumps(config)), 2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=30), st.sampled_from(["--lora", "--targets", "--modules-to-save", "--peft", "--model-class"]))
def test_any_text_as_an_option_is_taken_or_refused(text: str, option: str) -> None:
    """No option has a value that ends in a traceback."""
    options = (
        ("--lora", "r=2", f"{option}={text}") if option in ("--targets", "--modules-to-save") else (f"{option}={text}",)
    )
    check(run(SMALL, "--offline", "--count-only", "--json", *options), 2)
