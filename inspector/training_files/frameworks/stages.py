"""What the trainers of preferences and rewards run by themselves, by release: their loss, reference and rows.

Sources: TRL's tags 0.9 to 1.16 (trainer/{dpo,kto,grpo,reward}_trainer.py and their configurations); axolotl 0.21 runs
the trainers of TRL 1.14; LLaMA-Factory 0.9.5 has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.records.training_file import Origin
from inspector.training_files.fields import LESS, MORE, UNKNOWN, Settings, Values

__all__ = ["find_traced", "miss_stage", "settle_generation", "settle_rows", "settle_trl_stage"]

# The stages that are traced as steps of their own.
_TRACED = ("dpo", "kto", "orpo", "cpo", "reward", "grpo")
_WITH_LOGITS = ("dpo", "kto", "orpo", "cpo", "grpo")
_FUSED, _KERNEL = "1.15", "1.13"
_MISSED = {
    "ppo": "PPO runs a value and a reward model, too: a supervised step stands in for it",
}
# A stage whose trainer runs the passes of another one on the same rows, beside one of the policy's without gradients.
_NEAR = {"rloo": "grpo"}
# Losses that differ in numbers a pair or a token alone.
_ALIKE: Mapping[str, tuple[str, ...]] = {
    "dpo": (
        *("sigmoid", "ipo", "hinge", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down"),
        *("discopop", "sigmoid_norm"),
    ),
    "kto": ("kto",),
    "cpo": ("sigmoid", "hinge", "ipo", "simpo"),
    "grpo": ("grpo", "bnpo", "dr_grpo", "dapo"),
}
_BETA_OF_GRPO = {"0": 0.04, "0.19": 0.0}
_BETA_OF_RLOO, _GENERATIONS_OF_RLOO = 0.05, 2


def find_traced(stage: str | None) -> str | None:
    """Return the stage whose step is traced for one, None for a supervised step."""
    near = _NEAR.get(stage or "", stage)
    return near if near in _TRACED else None


def miss_stage(settings: Settings, name: str, stage: str, origin: Origin) -> None:
    """Note that another trainer than those that are traced runs."""
    if stage in _MISSED:
        settings.miss(name, stage, MORE, _MISSED[stage], origin)
    elif stage in _NEAR:
        near = _NEAR[stage].upper()
        settings.miss(name, stage, UNKNOWN, f"{near} is traced for it, which lacks a pass without gradients", origin)


def settle_trl_stage(values: Values, settings: Settings) -> None:
    """Take the loss and the reference of TRL's trainers."""
    fields, stage = settings.fields, find_traced(settings.stage)
    fields.pop("reference", None)
    for name in ("prompt_len", "completion_len", "num_generations", "vllm_share"):
        fields.pop(name, None)
    if stage is None:
        return
    settings.silent |= {"max_prompt_length", "max_completion_length", "beta", "num_generations"}
    loss = values["loss_type"]
    named = loss if isinstance(loss, list) else [loss]
    if all(item is None or item in _ALIKE.get(stage, ()) for item in named):
        settings.silent.add("loss_type")
    if stage in ("dpo", "kto", "grpo") and values.is_at_least(_FUSED):
        fields["loss"] = "fused"
    elif stage in ("dpo", "kto", "grpo") and values["use_liger_kernel"]:
        settings.miss("loss", "liger", LESS, "Liger's loss keeps no logits: the stock loss is traced")
    elif stage in _WITH_LOGITS and not values.is_at_least(_KERNEL):
        why = "log-probabilities without the kernel of TRL 1.13, which keep more: those of 1.14 are traced"
        settings.miss("loss", "log-probabilities", MORE, why)
    if stage in ("dpo", "kto") and values["precompute_ref_log_probs"]:
        fields["reference"] = "none"
    if stage in ("dpo", "kto"):
        settings.silent.add("precompute_ref_log_probs")
    if stage == "grpo":
        _settle_grpo(values, settings)


def _settle_grpo(values: Values, settings: Settings) -> None:
    """Take the reference, the rows and the engine of GRPO."""
    fields = settings.fields
    beta, generations = values["beta"], values["num_generations"]
    if settings.stage == "rloo":
        beta = _BETA_OF_RLOO if beta is None else beta
        generations = generations or _GENERATIONS_OF_RLOO
    if beta is None:
        beta = _BETA_OF_GRPO["0.19" if values.is_at_least("0.19") else "0"]
    if beta:
        fields["reference"] = "model" if fields.get("peft") is None else "adapter"
    settle_rows(settings, values["max_prompt_length"] or 512, generations)
    if values["steps_per_generation"] == fields.get("gradient_accumulation"):  # what it is by default
        settings.silent.add("steps_per_generation")
    if values["use_vllm"]:
        is_beside = values["vllm_mode"] or ("colocate" if values.is_at_least("1.0") else "server")
        share = values["vllm_gpu_memory_utilization"] or (0.3 if values.is_at_least("0.18") else 0.9)
        settle_generation(settings, str(is_beside), share)
        settings.silent |= {"use_vllm", "vllm_mode", "vllm_gpu_memory_utilization"}
    else:
        settings.silent |= {"vllm_mode", "vllm_gpu_memory_utilization"}


def settle_rows(settings: Settings, prompt: Any, generations: Any) -> None:
    """Take how many tokens of GRPO's rows are prompt, and how many answers a prompt has where rows are whole groups.

    Where they are not, several processes share a group.
    """
    fields = settings.fields
    length = fields.get("seq_len")
    if isinstance(prompt, int) and isinstance(length, int) and 1 <= prompt < length:
        fields["prompt_len"] = prompt
    rows = (fields.get("batch_size") or 1) * (fields.get("gradient_accumulation") or 1)
    if isinstance(generations, int) and not isinstance(generations, bool) and generations and rows % generations == 0:
        fields["num_generations"] = generations


def settle_generation(settings: Settings, mode: str, share: Any) -> None:
    """Take the part of the card that vLLM has, where it runs in the trainer's process."""
    if mode != "colocate":
        why = "vLLM generates in another process: generation with transformers is traced"
        settings.miss("vllm_mode", mode, LESS, why, Origin.FILE)
    elif isinstance(share, (int, float)) and 0 < share < 1:
        settings.fields["vllm_share"] = float(share)
