"""A request for a serving engine -> what the engine makes of the model, by the rules of its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from inspector.dtypes import BY_TORCH_NAME
from inspector.engines import llama_cpp, sglang, vllm
from inspector.engines.advice import find_engine_advice
from inspector.engines.layers import list_layers
from inspector.engines.model import ServedModel, read_model
from inspector.engines.shards import WeightTensor
from inspector.errors import UnsupportedModelError, UsageError, one_line, quoted
from inspector.hardware.selection import Selection
from inspector.records.engines.serving import Engine, Serving, ServingOptions
from inspector.records.hardware import Gpu
from inspector.records.model import Counted, Role
from inspector.records.recipe import Recipe
from inspector.records.request import Request, WeightDtype
from inspector.records.source import SourceFiles

__all__ = ["check_request", "serve_checkpoint", "serve_gguf"]

# What of a request an engine reads; everything else is about a step, an adapter or another loader.
_READ = frozenset(
    {
        *("model", "revision", "dtype", "model_class", "trust_remote_code", "assume_defaults", "offline", "serving"),
        *("gpus", "gpu_memory", "gpu_count", "depth", "source", "advice", "recipe", "workload"),
    }
)


def check_request(request: Request) -> None:
    """Raise UsageError where a request says what an engine does not read."""
    if request.source is not None and request.source.file is not None:
        raise UsageError("`engine` is about a model, and MODEL is a training file: name the model that is served.")
    if request.workload == "generate":
        raise UsageError(
            "`generate` has no effect with `engine`, whose own options say how long requests are: drop it."
        )
    if request.peft is not None:
        raise UsageError("an adapter has no effect with `engine`: leave it out, or merge it into the model first.")
    default = Request(model=request.model)
    for item in dataclasses.fields(Request):
        if item.name not in _READ and getattr(request, item.name) != getattr(default, item.name):
            raise UsageError(f"`{item.name}` has no effect with `engine`: an engine runs no step; drop one of them.")
    if request.workload != default.workload:
        raise UsageError("`workload` has no effect with `engine`: an engine runs no step; drop one of them.")
    recipe, plain = request.recipe, Recipe()
    for field in dataclasses.fields(Recipe):
        if getattr(recipe, field.name) != getattr(plain, field.name):
            raise UsageError(f"`{field.name}` has no effect with `engine`: an engine runs no step; drop one of them.")


def serve_checkpoint(
    request: Request,
    config: Any,
    counted: Counted,
    parameters: Iterable[tuple[str, Any]],
    roles: Mapping[str, Role],
    selection: Selection,
) -> Serving:
    """Return what vLLM or SGLang makes of a model of transformers.

    `parameters` are those of the model on meta by name, `roles` what each is for.
    """
    options = request.serving
    assert options is not None
    facts = counted.quantization
    packed = None if facts is None else facts.stored_bytes or facts.loaded_bytes
    if facts is not None and packed is None:
        raise UnsupportedModelError(
            f"no rule says what weights of the format {facts.method} take, which an engine loads as they are stored; "
            "name a checkpoint in float."
        )
    is_halved = counted.model.dtype == "float32" and request.dtype == WeightDtype.AUTO
    dtype = "bfloat16" if is_halved else counted.model.dtype
    try:
        model: ServedModel = read_model(
            config,
            list_layers(config),
            tuple(_list_weights(parameters, roles, is_halved=is_halved)),
            dtype=dtype,
            packed_bytes=packed,
            has_tower=any(role in (Role.VISION, Role.AUDIO) for role in counted.census.groups),
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A field that the rules of the engines read, which another kind of configuration does not have.
        raise UnsupportedModelError(
            f"the rules of engines do not read the configuration of {quoted(counted.model.model_class, 60)} "
            f"({one_line(error, 100)}); drop `engine`."
        ) from error
    gpus = _list_gpus(selection, options.tensor_parallel_size or 1)
    serve = {Engine.VLLM: vllm.serve, Engine.SGLANG: sglang.serve}[Engine(options.engine)]
    serving = serve(model, options, gpus)
    if request.advice and selection.named:
        serving = _advise(serving, options, gpus, lambda changed, each: serve(model, changed, each))
    if is_halved:
        note = "The checkpoint is in float32, which the engine loads in half precision; `dtype` float32 keeps it."
        serving = dataclasses.replace(serving, notes=(note, *serving.notes))
    return serving


def serve_gguf(request: Request, files: SourceFiles, selection: Selection) -> Serving:
    """Return what llama.cpp makes of a GGUF file."""
    assert request.serving is not None
    assert files.gguf is not None
    if any(count > 1 for count in selection.counts):
        raise UsageError("`gpu` has several cards, over which no rule here spreads llama.cpp; give one.")
    model, options, gpus = files.gguf, request.serving, _list_gpus(selection, 1)
    serving = llama_cpp.serve(model, options, gpus)
    if not (request.advice and selection.named):
        return serving
    return _advise(serving, options, gpus, lambda changed, each: llama_cpp.serve(model, changed, each))


def _advise(
    serving: Serving,
    options: ServingOptions,
    gpus: Sequence[tuple[Gpu, int]],
    serve: Callable[[ServingOptions, list[tuple[Gpu, int]]], Serving],
) -> Serving:
    """Return what an engine makes of a model with advice for each card where that is no sure yes."""
    verdicts = []
    for verdict, (gpu, count) in zip(serving.verdicts, gpus, strict=True):
        own = serve(options, [(gpu, count)])

        def serve_on(changed: ServingOptions, ranks: int, gpu: Gpu = gpu) -> Serving:
            return serve(changed, [(gpu, ranks)])

        verdicts.append(dataclasses.replace(verdict, advice=find_engine_advice(serve_on, options, own)))
    return dataclasses.replace(serving, verdicts=tuple(verdicts))


def _list_gpus(selection: Selection, ranks: int) -> list[tuple[Any, int]]:
    """Return the cards with how many of each serve the model, which are as many as there are ranks."""
    for gpu, count in zip(selection.gpus, selection.counts, strict=False):
        if count not in (1, ranks):
            raise UsageError(
                f"`gpu` has {count} of the {gpu.name} and {ranks} {'serves' if ranks == 1 else 'serve'} the model: "
                f"give `tensor_parallel_size` {count}, or one card."
            )
    return [(gpu, ranks) for gpu in selection.gpus]


def _list_weights(
    parameters: Iterable[tuple[str, Any]], roles: Mapping[str, Role], *, is_halved: bool
) -> Iterable[WeightTensor]:
    """Yield the parameters, each once by identity."""
    seen: set[int] = set()
    for name, parameter in parameters:
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        size = BY_TORCH_NAME[str(parameter.dtype).removeprefix("torch.")].bits // 8
        yield WeightTensor(
            name=name,
            shape=tuple(parameter.shape),
            bytes=parameter.numel() * (2 if is_halved and size == 4 else size),
            role=roles.get(name, Role.OTHER),
        )
