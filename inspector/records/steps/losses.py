"""Where the loss of a causal language model comes from, and whose kernels are in its layers: Liger's, axolotl's."""

from __future__ import annotations

from collections.abc import Sequence

from inspector.checks import Choice, check_choice, check_names

__all__ = ["LigerKernel", "LoraKernel", "LossName", "check_liger", "check_lora_kernels"]


class LossName(Choice):
    """What makes a loss of the hidden states and the labels.

    STOCK: the model itself, from all logits.
    CHUNKED: TRL 1.7 to 1.14 (`loss_type="chunked_nll"`): 256 positions at a time, computed again in the backward pass.
    FUSED: TRL 1.15 and newer (`add_fused_lm_head`): tiles of 4,096 positions and 32,768 tokens.
    LIGER: Liger's fused linear cross-entropy, which makes the gradients in the forward pass.
    CCE: cut-cross-entropy, which makes no logits.
    FLOAT32: LLaMA-Factory's DPO, KTO and reward training: all logits in float32.
    """

    STOCK = "stock"
    CHUNKED = "chunked"
    FUSED = "fused"
    LIGER = "liger"
    CCE = "cce"
    FLOAT32 = "float32"


class LigerKernel(Choice):
    """A kernel of Liger in the layers of a model, by the names of its `liger_kernel_config`.

    AUTO: those that `use_liger_kernel` switches on, and its loss. ROPE: rotary positions. RMS_NORM: norms.
    SWIGLU, GEGLU: the product of an MLP's gate and its other half.
    """

    AUTO = "auto"
    ROPE = "rope"
    RMS_NORM = "rms_norm"
    SWIGLU = "swiglu"
    GEGLU = "geglu"


class LoraKernel(Choice):
    """A fused kernel of axolotl for layers with LoRA, by the names of its `lora_mlp_kernel` and others.

    MLP: gate, up and down as one function. QKV: queries, keys and values. O: the output of attention.
    """

    MLP = "mlp"
    QKV = "qkv"
    O = "o"  # noqa: E741  # as axolotl names it


def check_liger(value: str | Sequence[str]) -> tuple[LigerKernel, ...]:
    """Return kernels that were given in a comma list or as a sequence, each once, in the order of the choices."""
    names = value.split(",") if isinstance(value, str) else check_names("liger", value, '"rope", "rms_norm"')
    given = {check_choice("liger", name.strip(), LigerKernel) for name in names}
    return tuple(kernel for kernel in LigerKernel if kernel in given)


def check_lora_kernels(value: str | Sequence[str]) -> tuple[LoraKernel, ...]:
    """Return kernels that were given in a comma list or as a sequence, each once, in the order of the choices."""
    names = value.split(",") if isinstance(value, str) else check_names("lora_kernels", value, '"mlp", "qkv"')
    given = {check_choice("lora_kernels", name.strip(), LoraKernel) for name in names}
    return tuple(kernel for kernel in LoraKernel if kernel in given)
