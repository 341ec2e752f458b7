"""Counting: every parameter once, by identity of the tensor.

On meta all data pointers are 0, so identity of the Parameter object is the only sound key: tied weights are one
object under several names. Three routes lead to the total and must agree (`take_census` asserts it): the sum over
roles, the sum over unique parameters and the root of the module tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from inspector.model.configuration import find_text_config
from inspector.model.roles import find_role, list_expert_banks
from inspector.model.sizes import count_weights, find_number, list_tensors
from inspector.model.tree import build_module_tree
from inspector.records.model import Census, Role, TensorKind
from inspector.records.source import Published

__all__ = [
    "BaseCount",
    "assign_roles",
    "count_base",
    "count_bytes_by_dtype",
    "count_head_elements",
    "count_in_float",
    "count_trained_tensors",
    "take_census",
]

# Where configurations say how many routed experts a token uses.
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "moe_topk",
    "top_k_experts",
    "num_selected_experts",
    "moe_k",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseCount:
    """The base model before the adapter: its unique parameters with a role each, and what follows from them.

    `frozen_dtypes` is bytes by dtype of what the class itself does not train (Whisper's sinusoidal positions),
    `tensors` how many parameters of each kind it does.

    The parameters are held, not only their ids, so that an id cannot be taken by a new tensor while it is compared.
    """

    roles: Mapping[nn.Parameter, Role]
    tied: tuple[tuple[str, ...], ...]
    active: int | None
    buffer_bytes: int
    frozen_dtypes: Mapping[str, int]
    tensors: Mapping[TensorKind, int]

    @property
    def count(self) -> int:
        """Return P, the parameters of the base model, each once."""
        return sum(count_weights(parameter) for parameter in self.roles)


def count_base(model: nn.Module) -> BaseCount:
    """Count the base model's parameters, tied ones once, under their first name."""
    names: dict[nn.Parameter, list[str]] = {}
    roles: dict[nn.Parameter, Role] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for own_name, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{own_name}" if path else own_name
            names.setdefault(parameter, []).append(name)
            if parameter not in roles:
                roles[parameter] = find_role(name, module, model)
    tied = tuple(tuple(group) for group in names.values() if len(group) > 1)
    return BaseCount(
        roles=roles,
        tied=tied,
        active=_count_active(model, roles),
        buffer_bytes=_count_buffer_bytes(model.buffers()),
        frozen_dtypes=count_bytes_by_dtype(parameter for parameter in roles if not parameter.requires_grad),
        tensors=count_trained_tensors(model),
    )


def assign_roles(model: nn.Module, base: BaseCount) -> dict[str, Role]:
    """Return what each parameter of `model` is for, by its first name: a role of the base, or what PEFT added."""
    copies = {
        parameter
        for module in model.modules()
        if isinstance(module, ModulesToSaveWrapper)
        for parameter in module.modules_to_save.parameters()
    }
    return {
        name: base.roles.get(parameter, Role.SAVED_COPIES if parameter in copies else Role.ADAPTER)
        for name, parameter in model.named_parameters()
    }


def take_census(model: nn.Module, base: BaseCount, *, published: Published | None, depth: int) -> Census:
    """Return the counts of `model`, which is the base model itself or the same model after PEFT changed it."""
    roles = assign_roles(model, base)
    groups: Counter[Role] = Counter()
    for name, parameter in model.named_parameters():
        groups[roles[name]] += count_weights(parameter)
    total = sum(count_weights(parameter) for parameter in model.parameters())
    tree = build_module_tree(model, depth)
    assert total == sum(groups.values()) == tree[0].count, "every parameter has one role and one place in the tree"
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = list(model.buffers())
    return Census(
        base=base.count,
        total=total,
        trainable=sum(count_weights(parameter) for parameter in trainable),
        buffers=sum(buffer.numel() for buffer in buffers),
        buffer_bytes=_count_buffer_bytes(buffers),
        active=base.active,
        groups={role: groups[role] for role in Role if role in groups},
        dtypes=count_bytes_by_dtype(model.parameters()),
        trainable_dtypes=count_bytes_by_dtype(trainable),
        tied=base.tied,
        tree=tree,
        published=published,
    )


def count_bytes_by_dtype(parameters: Iterable[nn.Parameter]) -> dict[str, int]:
    """Return the bytes of parameters, packed weights' scales included, by torch dtype name, largest first."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in parameters:
        for tensor in list_tensors(parameter):
            sizes[tensor.dtype] += tensor.numel() * tensor.element_size()
    return {str(dtype).removeprefix("torch."): size for dtype, size in sizes.most_common()}


def count_in_float(base: BaseCount) -> dict[str, Any]:
    """Return what full fine-tuning is reckoned with: the base model in the dtype of its checkpoint."""
    return {
        "base_dtypes": count_bytes_by_dtype(base.roles),
        "base_buffer_bytes": base.buffer_bytes,
        "base_frozen_dtypes": base.frozen_dtypes,
        "base_tensors": base.tensors,
    }


def count_trained_tensors(model: nn.Module) -> dict[TensorKind, int]:
    """Return how many parameters of each kind train, tied ones once."""
    head_elements = count_head_elements(model)
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    return Counter(
        TensorKind(
            dtype=str(parameter.dtype).removeprefix("torch."),
            shape=tuple(parameter.shape),
            is_embedding=parameter in embeddings,
            name=".".join(part for part in name.split(".") if not part.isdigit()),
            head_elements=head_elements,
        )
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def count_head_elements(model: nn.Module) -> int:
    """Return the weights of a head as Adam-mini counts them, 0 where the configuration has no such sizes."""
    config = getattr(model, "config", None)
    size, heads = (find_number(config, name) for name in ("hidden_size", "num_attention_heads"))
    return size * size // heads if size is not None and heads is not None and heads > 0 else 0


def _count_buffer_bytes(buffers: Iterable[torch.Tensor]) -> int:
    """Return the bytes of buffers."""
    return sum(buffer.numel() * buffer.element_size() for buffer in buffers)


def _count_active(model: nn.Module, roles: Mapping[nn.Parameter, Role]) -> int | None:
    """Return how many parameters one token uses, or None for a model without routed experts.

    All experts of a bank have the same size, so of a bank of E experts a token uses k/E. Embeddings count whole. None
    as well where the configuration does not say k (Switch Transformers), or there is none.
    """
    if not isinstance(model, PreTrainedModel):
        return None
    banks = list_expert_banks(model)
    per_token = _find_first_field(find_text_config(model.config), _EXPERTS_PER_TOKEN)
    if not banks or per_token is None:
        return None
    unused = 0
    for _, bank in banks:
        for parameter in bank.parameters():
            experts = _count_experts(bank, parameter)
            if experts:  # a config can ask for none
                unused += count_weights(parameter) - count_weights(parameter) * min(per_token, experts) // experts
    return sum(count_weights(parameter) for parameter in roles) - unused


def _count_experts(bank: nn.Module, parameter: nn.Parameter) -> int:
    """Return how many experts a parameter of a bank belongs to or holds: those of a list, or its first dimension.

    Fused parameters of one bank may differ in it: LongCat's gate_up has slices for experts that compute nothing.
    """
    if isinstance(bank, (nn.ModuleList, nn.ModuleDict)):
        return len(bank)
    return parameter.shape[0] if parameter.dim() > 1 else 1


def _find_first_field(config: Any, names: Iterable[str]) -> int | None:
    """Return the first of the named fields that holds a positive integer."""
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
