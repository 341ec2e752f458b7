"""Arguments of the Python API in any of their forms, as the records that they mean."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from inspector.arguments.training_arguments import is_training_arguments, read_training_arguments
from inspector.checks import check_choice, check_keys, describe_value
from inspector.engines.arguments import read_serving
from inspector.errors import UsageError, one_line
from inspector.records.fit import Quantity
from inspector.records.notice import Notice
from inspector.records.recipe import Generation, Recipe
from inspector.records.report import Report
from inspector.records.request import Request
from inspector.training_files.merge import build_request as merge_files
from inspector.training_files.merge import find_given

__all__ = ["OF_A_COMPARED_RECIPE", "build_request", "find_name", "read_quantities", "read_recipe_to_compare"]

# What a plan can search the largest value of.
_SEARCHED_BY_A_PLAN = (Quantity.BATCH_SIZE, Quantity.SEQ_LEN, Quantity.PROMPT_LEN)
# What `compare` takes for each of its recipes: the arguments of `inspect` that change a figure of a comparison.
OF_A_COMPARED_RECIPE = (
    *("model", "peft", "autocast_adapter_dtype", "adapter_dtype", "preparation", "recipe", "gpu"),
    *("gpu_memory", "gpu_count", "sharding", "device_map", "tensor_parallel", "expert_parallel", "nodes", "margin"),
    *("revision", "dtype", "quantization", "double_quant", "quant_storage"),
    *("model_class", "trust_remote_code", "assume_defaults", "extrapolate"),
    *("offline", "count_only", "workload", "torch", "framework", "launch", "base_model", "strict", "serving"),
)


def build_request(
    *,
    recipe: Any = None,
    gpu: Any = None,
    gpu_memory: Any = None,
    dtype: Any = "auto",
    model_class: Any = None,
    **others: Any,
) -> tuple[Request, tuple[Notice, ...]]:
    """Return the request of arguments in any of the forms that they may have, and notices of what a form left open."""
    own_recipe, notices = _read_recipe(recipe, has_adapter=others.get("peft") is not None)
    others |= {"workload": "generate"} if isinstance(recipe, Generation) else {}
    others |= {"serving": read_serving(others["serving"])} if "serving" in others else {}
    if type(dtype).__module__ == "torch" and type(dtype).__name__ == "dtype":
        dtype = str(dtype).removeprefix("torch.")
    beside = {name: others.pop(name) for name in _BESIDE_A_FILE if name in others}
    launch = beside.pop("launch", ())
    arguments = {
        **{item.name: getattr(own_recipe, item.name) for item in dataclasses.fields(Recipe)},
        **others,
        "gpus": gpu,
        "gpu_memory": gpu_memory,
        "dtype": dtype,
        "model_class": model_class.__name__ if isinstance(model_class, type) else model_class,
    }
    model = arguments.get("model")
    if isinstance(model, os.PathLike):
        arguments["model"] = os.fsdecode(model)
    launch = (launch,) if isinstance(launch, str) else tuple(launch)
    request = merge_files(
        arguments, find_given(arguments, recipe if isinstance(recipe, Mapping) else ()), launch=launch, **beside
    )
    return request, notices


# Arguments about a training file, which are no fields of a Request.
_BESIDE_A_FILE = ("framework", "launch", "base_model", "strict", "at_hand")


def _read_recipe(recipe: Any, *, has_adapter: bool) -> tuple[Recipe, tuple[Notice, ...]]:
    """Return the recipe of a mapping of its fields or of TrainingArguments, with what the user should know of it."""
    if recipe is None:
        return Recipe(), ()
    if isinstance(recipe, (Recipe, Generation)):
        return recipe if isinstance(recipe, Recipe) else recipe.to_recipe(), ()
    if isinstance(recipe, Mapping):
        check_keys("recipe", recipe, [item.name for item in dataclasses.fields(Recipe)])
        return Recipe(**recipe), ()
    if is_training_arguments(recipe):
        return read_training_arguments(recipe, has_adapter=has_adapter)
    raise UsageError(
        f"`recipe` is {describe_value(recipe)}; give a Recipe, a mapping of its fields, or TrainingArguments."
    )


def read_quantities(fit: Any) -> tuple[Quantity, ...]:
    """Return what a plan searches the largest value of: nothing, one quantity, or several in a list."""
    items = () if fit is None else fit if isinstance(fit, (list, tuple)) else (fit,)
    quantities = tuple(dict.fromkeys(check_choice("fit", item, Quantity) for item in items))
    if Quantity.RANK in quantities:
        known = " or ".join(_SEARCHED_BY_A_PLAN)
        raise UsageError(f"`fit` {Quantity.RANK} is nothing that a plan searches; use {known}.")
    return quantities


def read_recipe_to_compare(
    recipe: Any, settings: Mapping[str, Any]
) -> tuple[Request | Mapping[str, Any], tuple[Notice, ...]]:
    """Return one of the things to compare as a request or as the JSON of a report."""
    if isinstance(recipe, Report):
        return recipe.to_dict(), ()
    if isinstance(recipe, Request):
        return recipe, ()
    if isinstance(recipe, Mapping) and "schema" in recipe:
        return recipe, ()
    given: Mapping[str, Any] = recipe if isinstance(recipe, Mapping) else {"model": recipe}
    check_keys("recipes", given, OF_A_COMPARED_RECIPE)
    arguments = {**settings, **given}
    if "model" not in arguments:
        raise UsageError("`recipes` has one without a model; add `model`, for this one or for all.")
    return build_request(**arguments, advice=False, depth=0)


def find_name(compared: Request | Mapping[str, Any]) -> str:
    """Return what a recipe without a name is called: its model."""
    if isinstance(compared, Request):
        model = compared.model
        if isinstance(model, (str, os.PathLike)):
            return one_line(os.fspath(model), 100)
        return one_line(getattr(model, "name_or_path", None) or type(model).__name__, 100)
    facts = compared.get("model")
    return one_line(facts.get("id", "report") if isinstance(facts, Mapping) else "report", 100)
