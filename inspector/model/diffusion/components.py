"""What the models of a pipeline count: each is built on meta by its own class, of diffusers or of transformers."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from inspector.errors import InspectorError, UnsupportedModelError, one_line, quoted
from inspector.model.configuration import find_model_class, read_configuration
from inspector.model.diffusion.classes import import_diffusers
from inspector.model.diffusion.denoiser import read_denoiser
from inspector.model.skeleton import build_skeleton
from inspector.records.diffusion import Component, StoredComponent, StoredPipeline
from inspector.records.model import Counted
from inspector.records.notice import Notice
from inspector.records.source import ServedFrom, SourceFiles

__all__ = ["add_components"]


def add_components(counted: Counted, pipeline: StoredPipeline) -> Counted:
    """Return the counts of a pipeline's denoiser with those of its other models, in the same dtype."""
    dtype = getattr(torch, counted.model.dtype)
    components = tuple(_count(item, dtype) for item in pipeline.components)
    notices = (*counted.notices, *_describe(pipeline, components))
    return dataclasses.replace(counted, components=components, notices=notices)


def _describe(pipeline: StoredPipeline, components: Sequence[Component]) -> Iterator[Notice]:
    """Yield which model of a pipeline the figures are of, and what stands beside it."""
    others = [item for item in components if item.name != pipeline.trained]
    if not others:
        return
    counted = [item for item in others if item.parameters is not None]
    total = sum(item.parameters or 0 for item in components)
    beside = ", ".join(f"{item.name} {item.parameters:,}" for item in counted) or "none that is counted"
    message = f"{pipeline.class_name}: P is its {pipeline.trained}; beside it {beside}, {total:,} in all"
    message += ". What runs is the denoiser alone, on latents and captions that were encoded before."
    yield Notice(code="pipeline-parts", message=message)
    for item in others:
        if item.reason is not None:
            yield Notice(code="part-not-counted", message=f"{item.name} is not counted: {item.reason}.")


def _count(stored: StoredComponent, dtype: torch.dtype) -> Component:
    """Count one model; where it cannot be built, say why."""
    known = functools.partial(
        Component,
        name=stored.name,
        class_name=stored.class_name,
        library=stored.library,
        stored_bytes=stored.bytes,
    )
    try:
        model = _build(stored, dtype)
    except InspectorError as error:
        return known(reason=one_line(error, 200).removesuffix("."))
    parameters = list(model.parameters())  # tied ones once
    return known(
        parameters=sum(item.numel() for item in parameters),
        bytes=sum(item.numel() * item.element_size() for item in parameters),
    )


def _build(stored: StoredComponent, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of a pipeline on meta; raises UnsupportedModelError where its class is of neither library."""
    if stored.library == "diffusers":
        alone = StoredPipeline(class_name="", components=(stored,), trained=stored.name)
        config, model_class = read_denoiser(alone)
        return build_skeleton(config, model_class, dtype, stored.name)
    found = find_model_class(stored.class_name) if stored.library == "transformers" else _find_in_pipelines(stored)
    if found is None:
        raise UnsupportedModelError(f"transformers has no model class {quoted(stored.class_name, 60)}")
    files = SourceFiles(id=stored.name, served_from=ServedFrom.LOCAL, config=stored.config)
    configuration, _ = read_configuration(files, assume_defaults=True)
    return build_skeleton(configuration, found, dtype, stored.name)


def _find_in_pipelines(stored: StoredComponent) -> Any:
    """Return a class that diffusers itself has beside its pipelines, such as the safety checker's."""
    import_diffusers()
    if not stored.library.isidentifier():
        raise UnsupportedModelError(f"its class is of {quoted(stored.library, 40)}, which is not run")
    try:
        module = importlib.import_module(f"diffusers.pipelines.{stored.library}")
        found = getattr(module, stored.class_name, None)
    except Exception as error:  # whatever a module of the package raises, an import of another package that is missing
        raise UnsupportedModelError(f"diffusers cannot load it ({one_line(error, 100)})") from error
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise UnsupportedModelError(f"its class is of {quoted(stored.library, 40)}, which is not run")
    return found
