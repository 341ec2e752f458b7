"""What PEFT passes over without a warning: names that hit nothing, copies made whole, layers and experts left out.

Each rule is one function from the attached model to at most one notice per finding; `collect_adapter_notices` runs them
in the order in which a user should read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import peft
from peft import PeftConfig, PeftModel
from peft.tuners import XLoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from inspector.errors import quoted
from inspector.model.adapter.butterfly import count_without_extension
from inspector.model.adapter.config import list_names, name_method
from inspector.model.adapter.conversion import describe_conversion, find_conversion
from inspector.model.adapter.describe import gather_saved_state, measure_saved_embeddings
from inspector.model.adapter.peft_names import (
    ends_with,
    find_adapted_layers,
    find_saved_modules,
    list_base_modules,
    strip_wrappers,
)
from inspector.model.adapter.targets import explain_name
from inspector.model.adapter.unused import describe_unused
from inspector.model.census import BaseCount
from inspector.model.depth.worded import word
from inspector.model.sizes import count_weights
from inspector.names import fold_indices, fold_names, group_names, join_names, near_names
from inspector.records.model import AdapterFacts, Role
from inspector.records.notice import Notice
from inspector.units import format_count, format_share

__all__ = ["collect_adapter_notices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedWhole:
    """Saved modules of equal layers, by their folded name: how many, with how many parameters of all that train."""

    name: str
    modules: int
    count: int
    trainable: int

    def word(self) -> Notice:
        """Say so."""
        what = f"{self.name} is" if self.modules == 1 else f"{self.name} ({format_count(self.modules)} modules) are"
        message = (
            f"{what} trained and saved whole: {format_count(self.count)} parameters, "
            f"{format_share(self.count, self.trainable)} of what is trained."
        )
        return Notice(code="saved-whole", message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeftOutLinears:
    """How many linear layers have no adapter, with their weights, folded names, and what to do about it."""

    layers: int
    count: int
    names: tuple[str, ...]
    advice: str

    def word(self) -> Notice:
        """Say so."""
        message = (
            f"all-linear left {self.layers} linear layers of {format_count(self.count)} parameters without an adapter: "
            f"{join_names(self.names)}. {self.advice}"
        )
        return Notice(code="linear-left-out", message=message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnreachedExperts:
    """How many parameters of experts have no adapter, of how many of the base."""

    left: int
    base: int

    def word(self) -> Notice:
        """Say so."""
        message = (
            f"{format_count(self.left)} parameters of routed experts ({format_share(self.left, self.base)} of the "
            "model) get no adapter: they are fused parameters, not linear layers; PEFT's target_parameters reaches "
            "them."
        )
        return Notice(code="experts-not-reached", message=message)


def collect_adapter_notices(model: PeftModel, config: PeftConfig, facts: AdapterFacts, base: BaseCount) -> list[Notice]:
    """Return what the user should know about the adapter that PEFT attached, of which PEFT itself warns of nothing."""
    return [
        *_describe_unmatched(model, config, facts),
        *describe_conversion(model, config),
        *describe_unused(model, config),
        *_describe_factors(model),
        *_describe_clusters(model),
        *_describe_unsaved_classifier(model),
        *_describe_nothing_trains(model),
        *_describe_saved_whole(model),
        *_describe_untied(model, base),
        *_describe_left_out_linears(model, config),
        *_describe_partial_layers(model, config),
        *_describe_unreached_experts(model, base),
        *_describe_unfrozen_base(base),
        *_describe_saved_embeddings(model, facts),
    ]


def _describe_unmatched(model: PeftModel, config: PeftConfig, facts: AdapterFacts) -> Iterator[Notice]:
    """Name each target and saved module that hit nothing, with what was probably meant."""
    base_model = model.get_base_model()
    for name in facts.targets.unmatched if facts.targets else ():
        meant = explain_name(base_model, config, name)
        message = f"{quoted(name)} is the name of no target: nothing is trained for it. {meant}".rstrip()
        yield Notice(code="target-unmatched", message=message)
    leaves = {name.rpartition(".")[2] for name in list_base_modules(model)}
    for name in facts.modules_to_save.unmatched if facts.modules_to_save else ():
        near = near_names(name.rpartition(".")[2], {leaf for leaf in leaves if not leaf.isdigit()})
        meant = f" Did you mean {quoted(near[0])}?" if near else ""
        message = f"{quoted(name)} is the name of no module to save in this model: nothing is trained for it.{meant}"
        yield Notice(code="modules-to-save-unmatched", message=message)


def _describe_factors(model: PeftModel) -> Iterator[Notice]:
    """Say what BOFT trains on a machine where PEFT's extension does not build."""
    fewer = count_without_extension(model)
    if fewer is not None:
        message = (
            "BOFT is counted with the butterfly factors that were asked for, as where PEFT's CUDA extension builds "
            f"(with nvcc and ninja); where it does not, PEFT sets boft_n_butterfly_factor to 1 and trains "
            f"{format_count(fewer)} parameters."
        )
        yield Notice(code="butterfly-extension", message=message)


def _describe_clusters(model: PeftModel) -> Iterator[Notice]:
    """Say what is assumed of AdaMSS, whose clusters of rows follow the values of the base weights."""
    if name_method(model.active_peft_config) == "ADAMSS":
        message = (
            "AdaMSS clusters the rows of each weight by values: as many parameters train whichever rows are together; "
            "the step is traced with even clusters, and the size of the file follows the real ones."
        )
        yield Notice(code="even-clusters", message=message)


def _describe_saved_embeddings(model: PeftModel, facts: AdapterFacts) -> Iterator[Notice]:
    """Say when the adapter's file holds the base's embedding and head, which PEFT saves once one is a target."""
    found = measure_saved_embeddings(model)
    if found is not None and facts.file_bytes is not None:
        names, size, without = found
        message = (
            f"The adapter file holds {' and '.join(names)} of the base whole, {format_count(size)} of its "
            f"{format_count(facts.file_bytes)} bytes: PEFT saves embeddings and heads that are targets. With "
            f"save_pretrained(save_embedding_layers=False) it has {format_count(without)} bytes."
        )
        yield Notice(code="embeddings-in-file", message=message)


def _describe_unsaved_classifier(model: PeftModel) -> Iterator[Notice]:
    """Say what of X-LoRA's classifier PEFT leaves out of the file: what is called like an adapter that is mixed.

    Source: PEFT 0.21, utils/save_and_load.py (`_filter_state_dict_for_adapter_name`).
    """
    if not isinstance(model.base_model, XLoraModel):
        return
    saved = gather_saved_state(model) or {}
    classifier: nn.Module = model.base_model.internal_xlora_classifier
    trained = dict(classifier.named_parameters())
    lost = [item for name, item in trained.items() if not any(key.endswith(name) for key in saved)]
    if lost:
        left_out, whole = (format_count(sum(map(count_weights, items))) for items in (lost, trained.values()))
        message = (
            f"PEFT {peft.__version__} leaves {left_out} of the {whole} parameters of X-LoRA's classifier out of the "
            "file, whose names it takes for those of the adapters that are mixed: save "
            "internal_xlora_classifier.state_dict() beside it."
        )
        yield Notice(code="classifier-not-saved", message=message)


def _describe_nothing_trains(model: PeftModel) -> Iterator[Notice]:
    """Say when the adapter has no parameter to train."""
    if model.get_nb_trainable_parameters()[0] == 0:
        yield Notice(code="nothing-trains", message="Nothing trains: the adapter's configuration names no parameter.")


def _describe_saved_whole(model: PeftModel) -> Iterator[Notice]:
    """Say what each module of modules_to_save adds, those of equal layers together: PEFT trains a whole copy of it."""
    trainable = model.get_nb_trainable_parameters()[0]
    saved = dict(find_saved_modules(model))
    for folded, names in group_names(saved):
        count = sum(count_weights(parameter) for name in names for parameter in _get_copies(saved[name]).parameters())
        yield word(_SavedWhole(name=folded, modules=len(names), count=count, trainable=trainable))


def _describe_untied(model: PeftModel, base: BaseCount) -> Iterator[Notice]:
    """Say which weights are one tensor in the base and are adapted or copied on one side only."""
    wrappers = dict(find_saved_modules(model))
    for group in base.tied:
        owners = {name.rpartition(".")[0] for name in group}
        saved = sorted(owners & set(wrappers))
        adapted = sorted(owners & {name for name, _ in find_adapted_layers(model)})
        others = ", ".join(sorted(owners - {*saved, *adapted}))
        if saved and others:
            message = (
                f"{', '.join(saved)} shares its weight with {others}; the saved copy does not: training parts them. "
                "PEFT's ensure_weight_tying keeps them together."
            )
            yield Notice(code="saved-untied", message=message)
        elif saved and _are_apart([name for name in group if name.rpartition(".")[0] in wrappers], wrappers):
            message = (
                f"{' and '.join(saved)} share their weight, their saved copies do not: training parts them. "
                "PEFT's ensure_weight_tying keeps them together."
            )
            yield Notice(code="saved-untied", message=message)
        if adapted and others:
            message = (
                f"{', '.join(adapted)} shares its weight with {others}, which gets no adapter: merging the adapter "
                "would change both. PEFT's ensure_weight_tying adapts both."
            )
            yield Notice(code="target-tied", message=message)


def _describe_left_out_linears(model: PeftModel, config: PeftConfig) -> Iterator[Notice]:
    """Say which linear layers `all-linear` left without an adapter; the output head it leaves on purpose."""
    if getattr(config, "target_modules", None) != "all-linear":
        return
    base_model = cast(PreTrainedModel, model.get_base_model())
    modules = list(base_model.named_modules())
    inside = tuple(f"{name}." for name, module in modules if isinstance(module, BaseTunerLayer))
    saved = tuple(f"{name}." for name, _ in find_saved_modules(model))
    left = [
        (name, module)
        for name, module in modules
        if isinstance(module, (nn.Linear, Conv1D))
        and not isinstance(module, BaseTunerLayer)
        and module is not base_model.get_output_embeddings()
        and not name.startswith((*inside, *saved))
        and not any(ends_with(name, excluded) for excluded in list_names(config, "exclude_modules"))
    ]
    if not left:
        return
    count = sum(count_weights(parameter) for _, module in left for parameter in module.parameters())
    names = tuple(fold_names(name for name, _ in left))
    advice = _advise_on_left_out(base_model, [name for name, _ in left])
    yield word(_LeftOutLinears(layers=len(left), count=count, names=names, advice=advice))


def _advise_on_left_out(base_model: PreTrainedModel, names: list[str]) -> str:
    """Say by which field PEFT adapts linear layers that it left out: not by names that it takes for experts."""
    converted = [name for name in names if find_conversion(base_model, name)]
    if not converted:
        return "Name them in `target_modules` to train them."
    return f"PEFT takes their names for experts: target_parameters reaches them, as {quoted(f'{converted[0]}.weight')}."


def _describe_partial_layers(model: PeftModel, config: PeftConfig) -> Iterator[Notice]:
    """Say which targets hit some layers of a stack only."""
    adapted = [name for name, _ in find_adapted_layers(model)]
    stacks = {
        strip_wrappers(model, name): len(module)
        for name, module in model.named_modules()
        # Layers are alike; a list of different modules holds the parts of one layer (T5's attention and feed-forward).
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
        if len(module) > 1 and not name.endswith("experts")
    }
    targets = getattr(config, "target_modules", None)
    kinds = sorted(targets) if isinstance(targets, (list, tuple, set)) else [None]
    for kind in kinds:
        hits = [name for name in adapted if kind is None or name == kind or name.endswith(f".{kind}")]
        for stack, length in stacks.items():
            below = [name[len(stack) + 1 :] for name in hits if name.startswith(f"{stack}.")]
            indices = sorted({int(rest.partition(".")[0]) for rest in below})
            if 0 < len(indices) < length:
                what = "The adapter" if kind is None else f"Target {quoted(kind)}"
                message = f"{what} hits {len(indices)} of the {length} layers in {stack}: {fold_indices(indices)}."
                yield Notice(code="targets-partial", message=message)


def _describe_unreached_experts(model: PeftModel, base: BaseCount) -> Iterator[Notice]:
    """Say when routed experts stay untouched because they are fused parameters, which no module name can target."""
    adapted = find_adapted_layers(model)
    if not adapted:  # prompt methods adapt no module
        return
    experts = {parameter for parameter, role in base.roles.items() if role is Role.EXPERTS}
    saved = {
        parameter for _, wrapper in find_saved_modules(model) for parameter in wrapper.original_module.parameters()
    }
    reached = saved | {
        parameter
        for _, layer in adapted
        for name, parameter in _get_base_layer(layer).named_parameters(recurse=False)
        # A wrapper of one parameter leaves the others of its module alone.
        if parameter in experts and getattr(layer, "parameter_name", name) == name
    }
    left = sum(count_weights(parameter) for parameter in experts - reached)
    if left:
        yield word(_UnreachedExperts(left=left, base=base.count))


def _describe_unfrozen_base(base: BaseCount) -> Iterator[Notice]:
    """Say when parameters of the base model train beside the adapter."""
    size = sum(count_weights(parameter) for parameter in base.roles if parameter.requires_grad)
    if size:
        message = f"{format_count(size)} parameters of the base model are not frozen and train beside the adapter."
        yield Notice(code="base-unfrozen", message=message)


def _get_base_layer(layer: BaseTunerLayer) -> nn.Module:
    """Return the module of the base model that an adapter layer wraps."""
    module: nn.Module = layer.get_base_layer()
    return module


def _get_copies(wrapper: ModulesToSaveWrapper) -> nn.ModuleDict:
    """Return the copies that a wrapper trains, one for each adapter."""
    copies: nn.ModuleDict = wrapper.modules_to_save
    return copies


def _are_apart(names: list[str], wrappers: Mapping[str, ModulesToSaveWrapper]) -> bool:
    """Tell whether the saved copies of one shared parameter are several parameters."""
    paths = [name.rpartition(".") for name in names]
    copies = [
        (adapter, copy.get_parameter(own))
        for path, _, own in paths
        for adapter, copy in _get_copies(wrappers[path]).items()
    ]
    return len({(adapter, id(parameter)) for adapter, parameter in copies}) > len({adapter for adapter, _ in copies})
