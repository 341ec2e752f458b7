"""Repositories whose code transformers does not have: what takes their place there, and which packages code needs.

A repository is known by the `model_type` and the sizes in its config.json, so that fine-tuned ones are, too. Of the
same sizes are those that were published again for transformers' own classes: all parameters are of the same shapes but
where one layer became three.

Source: the arithmetic in tests/model/test_successors.py over the older modeling code. The older sizes are from memory:
no config.json of theirs was at hand. Not covered: models with a longer table of tokens or another depth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["describe_missing_packages", "name_successor"]

# The fields of each type that are looked at, and by their values the repository of transformers' own format.
# Qwen-1 counts both halves of its gate in intermediate_size (modeling_qwen.py, QWenMLP); ChatGLM's names are its own.
_SAME_SIZES: Mapping[str, tuple[tuple[str, ...], Mapping[tuple[int, ...], str]]] = {
    "qwen": (
        ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"),
        {
            (2048, 24, 11008, 151936): "Qwen/Qwen1.5-1.8B",
            (4096, 32, 22016, 151936): "Qwen/Qwen1.5-7B",
            (5120, 40, 27392, 152064): "Qwen/Qwen1.5-14B",
            (8192, 80, 49152, 152064): "Qwen/Qwen1.5-72B",
        },
    ),
    "chatglm": (
        ("hidden_size", "num_layers", "ffn_hidden_size", "padded_vocab_size"),
        {(4096, 40, 13696, 151552): "zai-org/glm-4-9b-hf"},
    ),
}
# What followed a type in transformers' own classes, in other sizes.
_OTHER_SIZES: Mapping[str, str] = {
    "chatglm": "zai-org/glm-4-9b-hf",
    "deepseek": "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek_vl_v2": "deepseek-community/deepseek-vl-7b-chat",
    "exaone": "LGAI-EXAONE/EXAONE-4.0-1.2B",
    "internlm": "internlm/internlm3-8b-instruct",
    "internlm2": "internlm/internlm3-8b-instruct",
    "mimo": "XiaomiMiMo/MiMo-V2-Flash",
    "nemotron-nas": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "phi3small": "microsoft/Phi-3-medium-4k-instruct",
    "qwen": "Qwen/Qwen1.5-7B",
}
# Types that nothing followed in transformers' own classes.
_WITHOUT = frozenset({"baichuan"})
# transformers/dynamic_module_utils.py, `check_imports`.
_MISSING = re.compile(r"packages that were not found in your environment: ([\w., -]+?)\. Run `pip")


def name_successor(fields: Mapping[str, Any]) -> str:
    """Return a sentence that names what takes the place of a repository with these fields; empty where nothing does.

    It is of the same sizes, or of others. Where it is known that there is none, the sentence says that.
    """
    model_type = fields.get("model_type")
    if not isinstance(model_type, str):
        return ""
    names, known = _SAME_SIZES.get(model_type, ((), {}))
    sizes = tuple(fields.get(name) for name in names)
    same = known.get(sizes) if all(type(size) is int for size in sizes) else None  # type: ignore[arg-type]
    if same is not None:
        return f" Or name {same}, which transformers has: its parameters are as many and of the same sizes."
    if model_type in _WITHOUT:
        return " transformers has no successor of it."
    other = _OTHER_SIZES.get(model_type)
    return "" if other is None else f" Or name {other}, its successor in transformers, which has other sizes."


def describe_missing_packages(error: Exception) -> str | None:
    """Return which packages the code of a repository needs and how to have them, None where that is not what failed."""
    found = _MISSING.search(str(error))
    if found is None and isinstance(error, ModuleNotFoundError) and error.name:
        names = [error.name.partition(".")[0]]
    elif found is not None:
        names = [name.strip() for name in found[1].split(",")]
    else:
        return None
    what = "package" if len(names) == 1 else "packages"
    return f"needs the {what} {', '.join(names)}; add what is missing: pip install {' '.join(names)}"
