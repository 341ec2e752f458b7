"""Parameter counts by arithmetic: what an architecture's papers and dimensions say, with no model built.

Each function takes a config and returns the number of unique parameters, tied ones once. They are the second opinion
on what the inspector reads off the meta model, so they share no code with it: pure integers, and a default is written
here only where a config leaves a dimension out. Buffers (masks, rotary frequencies, routing corrections) don't count.
"""

from __future__ import annotations

from collections.abc import Callable

from .dense import DENSE, Dense, dense_decoder
from .encoders import bart, bert, deberta, distilbert, t5, whisper
from .experts import all_layers_routed, deepseek, glm4_moe, gpt_oss
from .parts import Config
from .recurrent import jamba, mamba, qwen3_next
from .vision import clip, gemma3, llama4, llava, qwen2_5_vl, vit

__all__ = ["own_count"]

FORMULAS: dict[str, Callable[[Config], int]] = {
    "mixtral": lambda c: all_layers_routed(c, Dense(), c["num_local_experts"], c["intermediate_size"]),
    "olmoe": lambda c: all_layers_routed(c, Dense(wide_norms=True), c["num_experts"], c["intermediate_size"]),
    "qwen3_moe": lambda c: all_layers_routed(c, Dense(head_norms=True), c["num_experts"], c["moe_intermediate_size"]),
    "glm4_moe": glm4_moe,
    "deepseek_v2": deepseek,
    "deepseek_v3": deepseek,
    "kimi_k2": deepseek,
    "gpt_oss": gpt_oss,
    "mamba": mamba,
    "jamba": jamba,
    "qwen3_next": qwen3_next,
    "bert": bert,
    "roberta": bert,
    "xlm-roberta": bert,
    "distilbert": distilbert,
    "deberta-v2": deberta,
    "t5": t5,
    "bart": bart,
    "whisper": whisper,
    "vit": vit,
    "clip": clip,
    "llava": llava,
    "gemma3": gemma3,
    "qwen2_5_vl": qwen2_5_vl,
    "llama4": llama4,
}


def own_count(config: Config) -> int:
    """Return the number of unique parameters of the architecture that the config describes."""
    kind = config["model_type"]
    return dense_decoder(config, DENSE[kind]) if kind in DENSE else FORMULAS[kind](config)
