"""What takes the place of a repository whose code transformers lacks is of the sizes that it is said to have."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

import inspector
from inspector.model.untrusted.successors import name_successor

# config.json of the older repositories, as far as sizes go.
_QWEN: dict[str, Any] = {"model_type": "qwen", "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig"}}
_CHATGLM = {"model_type": "chatglm", "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"}}
_GLM = {"hidden_size": 4096, "num_layers": 40, "ffn_hidden_size": 13696, "padded_vocab_size": 151552}


def count_qwen(hidden: int, layers: int, intermediate: int, vocabulary: int) -> int:
    """Return the parameters of modeling_qwen.py: c_attn with a bias, c_proj; w1, w2 and c_proj of half the size."""
    attention = 3 * hidden * hidden + 3 * hidden + hidden * hidden
    return 2 * vocabulary * hidden + layers * (attention + 3 * hidden * (intermediate // 2) + 2 * hidden) + hidden


@pytest.mark.parametrize(
    ("sizes", "successor", "heads"),
    [
        ((2048, 24, 11008, 151936), "Qwen/Qwen1.5-1.8B", 16),
        ((4096, 32, 22016, 151936), "Qwen/Qwen1.5-7B", 32),
        ((5120, 40, 27392, 152064), "Qwen/Qwen1.5-14B", 40),
        ((8192, 80, 49152, 152064), "Qwen/Qwen1.5-72B", 64),
    ],
)
def test_qwen_of_the_first_generation_has_as_many_parameters_as_its_successor(
    sizes: tuple[int, int, int, int], successor: str, heads: int
) -> None:
    hidden, layers, intermediate, vocabulary = sizes
    old = {"hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocabulary}
    assert f"name {successor}, " in name_successor({**_QWEN, **old, "intermediate_size": intermediate})
    # config.json of the successor
    of_today = {"num_attention_heads": heads, "num_key_value_heads": heads, "tie_word_embeddings": False}
    new = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "dtype": "bfloat16", **old, **of_today}
    assert count({**new, "intermediate_size": intermediate // 2}) == count_qwen(*sizes)


def test_glm_4_has_as_many_parameters_as_in_the_format_of_transformers() -> None:
    assert "name zai-org/glm-4-9b-hf, which transformers has" in name_successor({**_CHATGLM, **_GLM})
    new = {
        "model_type": "glm",
        "architectures": ["GlmForCausalLM"],
        "hidden_size": 4096,
        "num_hidden_layers": 40,
        "intermediate_size": 13696,
        "vocab_size": 151552,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "attention_bias": True,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    # modeling_chatglm.py: query_key_value with a bias and 2 groups, dense, dense_h_to_4h of both halves, dense_4h_to_h
    query_key_value = 4096 * (4096 + 2 * 2 * 128) + 4096 + 2 * 2 * 128
    layer = query_key_value + 4096 * 4096 + 3 * 4096 * 13696 + 2 * 4096
    assert count(new) == 2 * 151552 * 4096 + 40 * layer + 4096


def count(config: dict[str, Any]) -> int:
    """Return the parameters of a configuration."""
    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    return inspector.inspect(made, count_only=True).parameters.base


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {**_QWEN, "hidden_size": 4096},
            " Or name Qwen/Qwen1.5-7B, its successor in transformers",
        ),
        ({"model_type": "internlm2"}, " Or name internlm/internlm3-8b-instruct, its successor"),
        ({"model_type": "chatglm", "hidden_size": "4096"}, " Or name zai-org/glm-4-9b-hf, its successor"),
        ({"model_type": "mimo"}, " Or name XiaomiMiMo/MiMo-V2-Flash, its successor"),
        ({"model_type": "nemotron-nas"}, " Or name nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16, its successor"),
        ({"model_type": "baichuan"}, " transformers has no successor of it."),
        ({"model_type": ["qwen"]}, ""),
        ({"model_type": "nobodys"}, ""),
    ],
)
def test_other_sizes_and_unknown_types_say_so(fields: dict[str, Any], said: str) -> None:
    assert name_successor(fields).startswith(said)
    assert bool(said) == bool(name_successor(fields))
