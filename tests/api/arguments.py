"""Dataclasses with the fields of a trainer's arguments, and a model on which they are traced in no time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import LlamaConfig

__all__ = ["LORA", "DPOArguments", "SFTArguments", "tiny_llama"]

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}


def tiny_llama() -> LlamaConfig:
    """Return the configuration of a Llama with two layers of 32 channels."""
    return LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


@dataclass
class SFTArguments:
    """What TRL's SFTConfig has of fields that matter here, with its defaults; the GPU must not be asked for."""

    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    optim: str = "adamw_torch_fused"
    optim_args: str | None = None
    gradient_checkpointing: bool = True
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    max_grad_norm: float | None = 1.0
    bf16: bool = False
    fp16: bool = False
    max_length: int | None = 1024
    use_cache: bool = False
    packing: bool = False
    use_liger_kernel: bool = False
    torch_compile: bool = False
    fsdp: list[str] = field(default_factory=list)
    deepspeed: str | None = None
    neftune_noise_alpha: float | None = None
    parallelism_config: object = None

    @property
    def device(self) -> object:
        """Fail as a machine without the GPU of the arguments does."""
        raise RuntimeError("the GPU was asked for")

    n_gpu = train_batch_size = device


@dataclass
class DPOArguments(SFTArguments):
    """What a preference trainer has beside that."""

    beta: float = 0.1
