"""What a parameter is for, decided by its place in the module tree.

The module tree carries no roles, so they follow from names that transformers uses consistently: an ordered list of
rules over the path's components and the class of the module that owns the parameter. The first rule that holds decides;
what none of them claims is OTHER. The split is for reading, not for accounting: whichever role a parameter gets, it is
counted exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from inspector.records.model import Role

__all__ = ["find_role", "list_expert_banks"]

_VISION = re.compile(r"vision|visual|image|patch_merger|multi_modal_projector|mm_projector|mmproj")
_AUDIO = re.compile(r"audio|speech|sound")
_NORM = re.compile(r"norm|^ln(_|\d|$)|layernorm")
# Not out_proj: state-space mixers and classification heads have one too, and attention's says so above it.
_ATTENTION = re.compile(r"attn|attention|^sinks$|^(q|k|v|o|qkv)_proj$")
_MLP = re.compile(r"mlp|ffn|feed_?forward|dense_?relu|moe|^fc\d?$|^intermediate$|^output$|expert|router|^lin\d$")
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|cls_token|mask_token|position|patch|^shared$")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one parameter sits: components of its path, the class of its owner, and facts about the whole model."""

    components: tuple[str, ...]
    owner: str
    is_output: bool
    is_composite: bool

    def any(self, pattern: re.Pattern[str]) -> bool:
        """Tell whether a component of the path matches."""
        return any(pattern.search(component) for component in self.components)


_RULES: tuple[tuple[Role, Callable[[_Place], bool]], ...] = (
    (Role.VISION, lambda place: place.is_composite and place.any(_VISION)),
    (Role.AUDIO, lambda place: place.is_composite and place.any(_AUDIO)),
    (Role.LM_HEAD, lambda place: place.is_output),
    (Role.EXPERTS, lambda place: _is_in_experts(place)),
    (Role.NORM, lambda place: "norm" in place.owner or bool(_NORM.search(place.components[-2]))),
    (Role.EMBEDDING, lambda place: place.owner == "embedding" and not place.any(_ATTENTION)),
    (Role.ATTENTION, lambda place: place.any(_ATTENTION)),
    (Role.EMBEDDING, lambda place: place.any(_EMBEDDING)),
    (Role.MLP, lambda place: place.any(_MLP)),
)


def find_role(name: str, owner: nn.Module, model: nn.Module) -> Role:
    """Return the role of the parameter `name` that the module `owner` of `model` holds.

    Which module is the output and whether there are several towers is known of transformers models alone.
    """
    known = model if isinstance(model, PreTrainedModel) else None
    place = _Place(
        components=("", *name.lower().split(".")),
        owner=type(owner).__name__.lower(),
        is_output=known is not None and owner is known.get_output_embeddings(),
        is_composite=known is not None and bool(known.config.sub_configs),
    )
    return next((role for role, holds in _RULES if holds(place)), Role.OTHER)


def list_expert_banks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return (path, module) of every bank of routed experts, fused parameters and lists of modules."""
    banks: list[tuple[str, nn.Module]] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{bank}.") for bank, _ in banks[-1:]):
            continue
        if path.rpartition(".")[2] == "experts" or type(module).__name__.endswith("ParallelExperts"):
            banks.append((path, module))
    return banks


def _is_in_experts(place: _Place) -> bool:
    """Tell whether a parameter belongs to a bank of routed experts, as `list_expert_banks` finds them."""
    return "experts" in place.components or place.owner.endswith("parallelexperts")
