"""What a trace does not count is named where the model has it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from inspector.hardware.platform import Platform
from inspector.records.recipe import Recipe
from inspector.workloads.unaccounted import find_unaccounted

SMALL = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 128}
TEXT = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 4}
EXPERTS = {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2}
VISION = {**SMALL, "intermediate_size": 64, "image_size": 32, "patch_size": 16}
ADA, HOPPER = ((8, 9), (9, 0))


def name_unaccounted(model: Any, capability: tuple[int, int] = ADA, **recipe: Any) -> list[str]:
    """Return what is named of a model on a card of a compute capability."""
    platform = Platform(compute_capability=capability, torch_version=(2, 13))
    settled = Recipe(**{"attention": "sdpa", **recipe})
    return [item.what for item in find_unaccounted(model, settled, platform, ("pixel_values",))]


def build(kind: str, fields: dict[str, int], dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return a small model on meta."""
    config = transformers.AutoConfig.for_model(kind, **fields)
    classes = {"vit": transformers.AutoModelForImageClassification}
    with torch.device("meta"):
        maker: Any = classes.get(kind, transformers.AutoModelForCausalLM)
        return maker.from_config(config, dtype=dtype)


def test_a_dense_text_model_has_nothing_that_is_not_accounted() -> None:
    assert name_unaccounted(build("llama", TEXT)) == []


def test_experts_are_named_where_there_are_some() -> None:
    assert name_unaccounted(build("mixtral", EXPERTS)) == ["grouped matrix products of experts"]


def test_convolutions_are_named_where_they_run() -> None:
    assert name_unaccounted(build("vit", VISION)) == ["plans of cuDNN convolutions"]


@pytest.mark.parametrize(
    ("dtype", "capability", "backend", "named"),
    [
        (torch.bfloat16, HOPPER, "auto", True),
        (torch.bfloat16, HOPPER, "flash", False),
        (torch.float32, HOPPER, "auto", False),
        (torch.bfloat16, ADA, "auto", False),
        (torch.bfloat16, ADA, "cudnn", True),
    ],
)
def test_the_attention_of_cudnn_is_named_where_cuda_may_choose_it(
    dtype: torch.dtype, capability: tuple[int, int], backend: str, named: bool
) -> None:
    found = name_unaccounted(build("llama", TEXT, dtype), capability, sdpa_backend=backend)
    assert found == (["plans of cuDNN attention"] if named else [])
