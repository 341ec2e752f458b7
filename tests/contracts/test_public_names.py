"""What `import inspector` offers, and the one table that has to agree with torch."""

from __future__ import annotations

import inspect
import json
import types

import safetensors.torch
import torch

import inspector
from inspector import dtypes
from inspector.arguments.forms import OF_A_COMPARED_RECIPE
from inspector.records.request import WeightDtype


def test_the_public_names_are_those_that_exist() -> None:
    """`__all__` lists every name of the package that is neither private, a module nor typing's, once one was used."""
    assert callable(inspector.inspect)
    visible = {
        name
        for name, value in vars(inspector).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and name not in ("Any", "Sequence", "annotations")
    }
    assert visible == set(inspector.__all__)
    assert list(inspector.__all__) == sorted(inspector.__all__)


def test_the_public_names_of_the_package_stay() -> None:
    """Removing one breaks whoever imports it; adding one belongs here too."""
    assert inspector.__all__ == [
        "Comparison",
        "DoesNotFitError",
        "Generation",
        "InspectorError",
        "LoraOptions",
        "Measurement",
        "ModelUnavailableError",
        "Plan",
        "Recipe",
        "Report",
        "ServingOptions",
        "UnsupportedModelError",
        "UsageError",
        "compare",
        "inspect",
        "measure",
        "plan",
    ]


def test_the_arguments_of_inspect_stay() -> None:
    """The model by position, everything else by keyword, with these defaults."""
    parameters = inspect.signature(inspector.inspect).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        "model": inspect.Parameter.empty,
        "peft": None,
        "autocast_adapter_dtype": True,
        "adapter_dtype": "auto",
        "preparation": "peft",
        "workload": "training",
        "recipe": None,
        "torch": None,
        "gpu": None,
        "gpu_memory": None,
        "gpu_count": 1,
        "sharding": None,
        "device_map": None,
        "tensor_parallel": None,
        "expert_parallel": None,
        "nodes": None,
        "margin": None,
        "context": (),
        "fit": None,
        "advice": True,
        "revision": None,
        "dtype": "auto",
        "quantization": None,
        "double_quant": None,
        "quant_storage": None,
        "model_class": None,
        "trust_remote_code": False,
        "assume_defaults": False,
        "extrapolate": True,
        "offline": False,
        "count_only": False,
        "depth": 3,
        "serving": None,
        "framework": None,
        "launch": (),
        "base_model": None,
        "strict": False,
    }
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] + [inspect.Parameter.KEYWORD_ONLY] * 36


def test_the_arguments_of_the_other_functions_are_those_of_inspect() -> None:
    """What a user knows of one holds for all; `compare` takes the same names as settings."""
    known = inspect.signature(inspector.inspect).parameters
    for function in (inspector.plan, inspector.measure):
        parameters = dict(inspect.signature(function).parameters)
        parameters.pop("rank", None)  # which of several ranks is measured
        assert set(parameters) <= set(known)
        differing = [name for name, item in parameters.items() if item.default != known[name].default]
        assert differing == (["fit"] if function is inspector.plan else [])
    assert set(OF_A_COMPARED_RECIPE) == set(known) - {"fit", "advice", "depth", "context"}


def test_every_error_has_the_exit_code_of_the_contract() -> None:
    """Programs may tell the errors apart by class or by code."""
    codes = {error.__name__: error.exit_code for error in inspector.InspectorError.__subclasses__()}
    assert codes == {
        "DoesNotFitError": 1,
        "UsageError": 2,
        "ModelUnavailableError": 3,
        "UnsupportedModelError": 4,
        "CompatibilityError": 4,
    }


def test_the_sizes_of_dtypes_are_those_of_torch() -> None:
    """The table exists so that bytes can be computed without torch; it must not have an opinion of its own."""
    sizes = {name: dtypes.dtype_bytes(name) for name in dtypes.BY_TORCH_NAME}
    assert len(sizes) == sum(dtype.torch is not None for dtype in dtypes.DTYPES)
    assert sizes == {name: getattr(torch, name).itemsize for name in sizes}


def test_the_names_and_sizes_of_stored_dtypes_and_their_order_in_a_file_are_those_of_safetensors() -> None:
    """A file with a tensor of every dtype that torch has holds them in the table's order reversed."""
    named = [dtype for dtype in dtypes.DTYPES if dtype.torch is not None and dtype.safetensors is not None]
    content = safetensors.torch.save({name: torch.zeros(8).to(getattr(torch, name)) for name in names_of(named)})
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    stored = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
    assert [name for name, _ in stored] == names_of(named)[::-1]
    assert [entry["dtype"] for _, entry in stored] == [dtype.safetensors for dtype in reversed(named)]
    spans = [entry["data_offsets"] for _, entry in stored]
    assert [end - begin for begin, end in spans] == [dtype.bits for dtype in reversed(named)]  # of 8 elements


def names_of(table: list[dtypes.Dtype]) -> list[str]:
    """Return torch's names."""
    return [str(dtype.torch) for dtype in table]


def test_every_choice_of_dtype_is_one_of_torch() -> None:
    """What --dtype accepts can be built."""
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in WeightDtype.values() if name != "auto")
