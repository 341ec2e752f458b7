"""A checkpoint that is stored quantized: which weights of the model are, and what they weigh by the format's rule.

Which modules are converted follows transformers' own rules (`get_modules_to_not_convert`, `should_convert_module`);
the fused experts of the model are matrices of their own in the checkpoint, as many as there are experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from inspector.errors import one_line
from inspector.model.names import fold_names
from inspector.model.roles import expert_banks
from inspector.quantization.formats import FORMATS, KNOWN, TRAINS, Format, Matrix, NoRuleError, format_of
from inspector.records import Notice, QuantizationFacts

__all__ = ["stored_facts", "stored_notices"]


def stored_facts(model: PreTrainedModel, config: Mapping[str, Any]) -> QuantizationFacts:
    """Describe a model in float whose checkpoint declares the quantization `config`."""
    method = format_of(config)
    trains, condition = TRAINS.get(method, (None, None))
    facts = QuantizationFacts(
        method=one_line(method, 40) or "unnamed",
        source="checkpoint",
        dequantized_bytes=sum(_size(parameter) for parameter in model.parameters()),
        trains=trains,
        note=condition and f"{condition[0].upper()}{condition[1:]}.",
    )
    format_ = FORMATS.get(method)
    if format_ is None:
        why = KNOWN.get(method, "it is not known here")
        return dataclasses.replace(facts, note=f"No rule for this format: {why}.")
    try:
        weights = {name: (parameter, matrices) for name, parameter, matrices in _weights(model, config, format_)}
        packed = [format_.rule(config, matrix) for _, matrices in weights.values() for matrix in matrices]
    except NoRuleError as error:
        return dataclasses.replace(facts, note=f"No rule for this configuration: {one_line(error)}.")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return dataclasses.replace(
        facts,
        modules=fold_names(weights),
        modules_count=len(weights),
        kept=fold_names(name for name in linear if name not in weights),
        parameters=sum(parameter.numel() for parameter, _ in weights.values()),
        weight_bytes=sum(part.weight_bytes for part in packed),
        scale_bytes=sum(part.scale_bytes for part in packed),
        kept_bytes=facts.dequantized_bytes - sum(_size(parameter) for parameter, _ in weights.values()),
    )


def _size(parameter: Tensor) -> int:
    """Return the bytes of a parameter in float."""
    return parameter.numel() * parameter.element_size()


def stored_notices(facts: QuantizationFacts) -> list[Notice]:
    """Say what the report's other figures are about: the model as it is used, in float."""
    known = ""
    if facts.loaded_bytes is None:
        known = f" {facts.note}"
    message = (
        f"The checkpoint is stored quantized ({facts.method}): parameters are counted as the model uses them, and its "
        f"step is traced with the weights dequantized.{known}"
    )
    return [Notice(code="quantized-checkpoint", message=message)]


def _weights(
    model: PreTrainedModel, config: Mapping[str, Any], format_: Format
) -> Iterator[tuple[str, Tensor, list[Matrix]]]:
    """Yield (name, parameter, matrices in the checkpoint) of what the format converts."""
    names = config.get("modules_to_not_convert", config.get("ignore"))
    listed = [str(name).removeprefix("re:") for name in names] if isinstance(names, (list, tuple)) else None
    skipped = HfQuantizer.get_modules_to_not_convert(
        model, listed, list(model._keep_in_fp32_modules or ()), add_default_skips=format_ is not FORMATS["mxfp4"]
    )
    if not format_.experts_only:
        for name, module in model.named_modules():
            if type(module) is nn.Linear and should_convert_module(name, skipped):
                yield name, module.weight, [Matrix(rows=module.out_features, columns=module.in_features)]
    for name, bank in expert_banks(model):
        if isinstance(bank, (nn.ModuleList, nn.ModuleDict)) or not should_convert_module(name, skipped):
            continue
        for own, parameter in bank.named_parameters(recurse=False):
            if parameter.dim() == 3:
                yield f"{name}.{own}", parameter, _expert_matrices(bank, own, parameter)


def _expert_matrices(bank: nn.Module, name: str, parameter: Tensor) -> list[Matrix]:
    """Return the matrices that a fused parameter of experts is in a checkpoint: gate and up are two."""
    experts, rows, columns = parameter.shape
    if getattr(bank, "is_transposed", False):
        rows, columns = columns, rows
    if name.startswith("gate_up"):
        return [Matrix(rows=rows // 2, columns=columns, copies=experts)] * 2
    return [Matrix(rows=rows, columns=columns, copies=experts)]
