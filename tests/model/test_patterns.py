"""Patterns that PEFT and transformers match: all of them are tried first, sensible ones pass, endless ones do not."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from typing import Any

import pytest
import torch
import transformers
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from transformers import PreTrainedModel

from inspector.errors import InspectorError
from inspector.model.adapter.attach import attach_adapter
from inspector.model.adapter.config import read_peft_config
from inspector.model.adapter.describe import describe_adapter
from inspector.model.adapter.patterns import list_match_calls
from inspector.model.patterns import MatchCall, PatternError, check_patterns
from inspector.model.skeleton import build_skeleton
from tests.cli.running import bundled_config
from tests.model.test_adapter_file import FIELDS, METHODS
from tests.model.tiny import llama

# Methods whose targets are the ends of names alone.
COMPARES_ENDS = {"ADAPTION_PROMPT"}
WHOLE = MatchCall(function="fullmatch")
KEY = MatchCall(function="match", before=r"(.*\.)?(", after=r")$")
SAVED = MatchCall(function="match", before=r"(^|.*\.)", after=r"($|\..*)")

# From PEFT's documentation, docstrings and tests, and from adapters that Unsloth, LLaMA-Factory and ms-swift write.
SENSIBLE = (
    r".*\.(q|v)_proj$",
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$",
    r"model\.layers\.(1|2)[0-9]\..*_proj",
    r"^(?!.*vision).*(?:q_proj|v_proj)$",
    r".*\.mlp\.fc\d",
    r".*[^m]\.q_proj",
    r"(?:.*?\.)?layers\.\d+\.self_attn\.[qkvo]_proj",
    r"^model.decoder.layers.0.encoder_attn.k_proj",
    r".*\.layers\.(0|1|2|3|4|5|6|7)\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    r"^(?!.*patch_embed).*(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*",
    r"^(model.language_model(?=\.).*\.(o_proj|down_proj|q_proj|gate_proj|v_proj|up_proj|k_proj))$",
    r"(?:model\.)?(?:\w+\.)*layers\.\d{1,3}\.(?:mlp|self_attn)\.\w+_proj",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj|"
    r"out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|"
    r"attn|mlp|feed_forward|ffn|dense)\.(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|"
    r"down_proj)))",
)
ENDLESS = (
    "([a-z0-9_.]+)+!",
    "(.*.*)*!",
    "(?:a|[a-z]|[a-z0-9]|[._])*(?:[a-z]|[a-z0-9._])*(?:.|[a-z])*!",
    ".*.*.*.*.*.*.*.*.*.*!",
    "(?:.?){26}.{26}!",
    r"((.)\2?)*!|(?=([a-z._0-9]+)+!)",
)


def names_of(name: str) -> list[str]:
    """Return the names of the modules of a catalogue entry."""
    fields = bundled_config(name)
    config = transformers.AutoConfig.for_model(**fields)
    model_class = getattr(transformers, fields["architectures"][0])
    return [path for path, _ in build_skeleton(config, model_class, torch.bfloat16, name).named_modules()]


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-7B-Instruct", "meta-llama/Meta-Llama-3.1-405B"])
def test_patterns_that_people_write_are_tried_in_time_on_large_models(name: str) -> None:
    names = names_of(name)
    for call in (WHOLE, KEY, SAVED):
        check_patterns([(pattern, call) for pattern in SENSIBLE], names)


@pytest.mark.parametrize("pattern", ENDLESS)
@pytest.mark.one_of(3)
def test_a_pattern_without_an_end_is_refused(pattern: str) -> None:
    names = [f"model.layers.0.self_attn.{letter}_proj" for letter in "qkvo"]
    with pytest.raises(PatternError, match="too involved") as caught:
        check_patterns([(".*", WHOLE), (pattern, WHOLE), ("fine", WHOLE)], names)
    assert caught.value.text == pattern


@pytest.mark.parametrize("pattern", ["(", "[", "(?P<idx>a)", "a(?i)", "(" * 3_000])
def test_a_text_that_is_no_regular_expression_where_it_is_put_is_refused(pattern: str) -> None:
    call = MatchCall(function="match", before=r"(?:^|.*?\.)", after=r"\.(?P<idx>\d+)\.")
    with pytest.raises(PatternError, match="not a regular expression"):
        check_patterns([(pattern, call)], ["a"])


def build() -> PreTrainedModel:
    return build_skeleton(llama(), transformers.LlamaForCausalLM, torch.bfloat16, "tiny")


class Recorder:
    """Notes what PEFT's code gives to `re`, and lets `re` answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mark: str) -> None:
        self.matched: set[tuple[str, str, str]] = set()
        for function in ("match", "fullmatch", "search"):
            self._watch(monkeypatch, function, getattr(re, function), mark)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, function: str, real: Any, mark: str) -> None:
        def noting(pattern: Any, string: str, flags: int = 0) -> Any:
            is_peft = sys._getframe(1).f_globals.get("__name__", "").startswith("peft.")
            if is_peft and mark in str(getattr(pattern, "pattern", pattern)):
                self.matched.add((function, str(getattr(pattern, "pattern", pattern)), string))
            return real(pattern, string, flags)

        monkeypatch.setattr(re, function, noting)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.one_of(3)
def test_peft_matches_no_pattern_of_a_configuration_that_was_not_tried(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever field holds a pattern, and in whichever form: the call and the names are those that were tried."""
    mark = "(?:q|zzz)"
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)]
    recorder = Recorder(monkeypatch, mark)
    tried: set[tuple[str, str]] = set()
    names = {*(name for name, _ in build().named_modules()), "embed_tokens", "lm_head"}
    naming = ("modules", "pattern", "to_save", "parameters", "indices", "layers")
    for field in dataclasses.fields(config_class):
        if not field.init or not field.name.endswith(naming):
            continue
        values: tuple[Any, ...] = (f".*{mark}_proj", [f"{mark}_proj"], {f"{mark}_proj": 4})
        for value in values:
            fields = {"peft_type": method, "task_type": "CAUSAL_LM", **FIELDS.get(method, {}), field.name: value}
            if field.name == "layers_pattern":
                fields |= {"target_modules": ["q_proj"], "layers_to_transform": [0, 1]}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    config: PeftConfig = read_peft_config(fields, "LlamaForCausalLM")[0]
                    for calls in list_match_calls(config).values():
                        tried |= {(call.function, f"{call.before}{text}{call.after}") for text, call in calls}
                    attached, _ = attach_adapter(build, config)
                    describe_adapter(attached, config)
                except InspectorError:
                    continue  # what PEFT refuses it has matched before
    assert {(function, pattern) for function, pattern, _ in recorder.matched} <= tried
    assert {name for _, _, name in recorder.matched} <= names
    has_targets = "target_modules" in {field.name for field in dataclasses.fields(config_class)}
    assert bool(recorder.matched) == (has_targets and method not in COMPARES_ENDS)
