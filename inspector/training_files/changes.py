"""A change of a request -> the fields of the training file that make it, and a copy of the file with them.

Copies keep everything else of a YAML or TOML file as it is, comments too; a JSON file is written anew.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from inspector.errors import UsageError, quoted
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Preparation, Quantization, Request
from inspector.records.training_file import Origin, TrainingFile
from inspector.training_files.fields import Field
from inspector.training_files.frameworks.losses import LORA_KERNELS, choose_adapter_dtype, choose_lora_kernels
from inspector.training_files.frameworks.shared import ALLOCATOR
from inspector.training_files.reading import read_document
from inspector.training_files.recognise import FRAMEWORKS

__all__ = ["can_spell", "check_copy", "follow_packing", "make_changed_copy", "spell_change"]

# No framework's file says whether PEFT casts the adapter.
_UNSAYABLE = ("autocast_adapter_dtype",)
_OF_THE_REQUEST = ("dtype", "quantization", "double_quant", "peft")

# The frameworks whose files and scripts say the dtype of the weights.
_WITH_DTYPE = ("TRL", "transformers")
# Those that list linear layers by their names.
_BY_NAME = ("axolotl", "LLaMA-Factory")
# What a script says where it loads the model itself, or else leaves to the trainer.
_OF_THE_MODEL = ("dtype", "attn_implementation")
# Fields of TRL's command line, whose ModelConfig no script has: the class or argument that a script says them in.
_IN_A_SCRIPT = {
    "load_in_4bit": "load_in_4bit in BitsAndBytesConfig",
    "load_in_8bit": "load_in_8bit in BitsAndBytesConfig",
    "use_bnb_nested_quant": "bnb_4bit_use_double_quant in BitsAndBytesConfig",
    "lora_r": "r in LoraConfig",
    "lora_target_modules": "target_modules in LoraConfig",
    "use_peft": "peft_config",
}


def can_spell(before: Request, after: Request) -> bool:
    """Tell whether the training file of a request has fields for a change; True where the request is from none."""
    record = None if before.source is None else before.source.file
    if record is None:
        return True
    is_same_method = (before.peft is None) is (after.peft is None)  # else the framework says it (`follow_packing`)
    if before.dtype != after.dtype and is_same_method and not _has_dtype(record):
        return False
    return all(getattr(before, name) == getattr(after, name) for name in _UNSAYABLE)


def _has_dtype(record: TrainingFile) -> bool:
    """Tell whether a file can say the dtype of its weights by a field: that of a dictionary in it goes before."""
    return record.framework in _WITH_DTYPE and (_is_script(record) or "model_init_kwargs" not in record.spelled)


def _is_script(record: TrainingFile) -> bool:
    return Path(record.path).suffix.lower() in (".py", ".ipynb")


def follow_packing(request: Request) -> Request:
    """Return a request with what the framework of its file does by itself to an adapter on weights in this form.

    That is the dtype that it and the base are in, what its layers leave out, and their kernels.
    """
    record = None if request.source is None else request.source.file
    if record is None:
        return request
    is_packed = request.quantization not in (None, Quantization.NONE)
    dtype = choose_adapter_dtype(record.framework, Preparation(request.preparation), is_packed=is_packed)
    request = request if dtype is None else dataclasses.replace(request, adapter_dtype=dtype)
    request = _follow_method(record, request)
    if record.framework != "axolotl" or any(f"lora_{kernel}_kernel" in record.spelling for kernel in LORA_KERNELS):
        return request
    is_lora, is_int8 = isinstance(request.peft, LoraOptions), request.quantization is Quantization.INT8
    kernels = choose_lora_kernels(record.spelling, is_lora=is_lora, is_int8=is_int8) or None
    return dataclasses.replace(request, recipe=dataclasses.replace(request.recipe, lora_kernels=kernels))


def _follow_method(record: TrainingFile, request: Request) -> Request:
    """Return a request with what the framework of its file makes of an adapter that the file lacks, or has no more."""
    lora = request.peft
    if isinstance(lora, LoraOptions):
        dropout = lora.dropout
        if dropout is None and record.framework == "TRL" and not _is_script(record):
            dropout = _index(record)["lora_dropout"].find_default(record.version)
        lora = dataclasses.replace(lora, by_name=record.framework in _BY_NAME, dropout=dropout)
        request = dataclasses.replace(request, peft=lora)
    is_asked = any(item.becomes == "dtype" and item.origin is Origin.OPTION for item in record.fields)
    if record.framework != "LLaMA-Factory" or is_asked:
        return request
    is_half = any(record.spelling.get(name) for name in ("pure_bf16", "use_badam"))
    return dataclasses.replace(request, dtype="auto" if is_half or request.peft is not None else "float32")


def _index(record: TrainingFile) -> Mapping[str, Field]:
    """Return the fields of the framework of a file, by name."""
    return next(item for item in FRAMEWORKS.values() if item.name == record.framework).index()


def spell_change(before: Request, after: Request, beside: Collection[str] = ()) -> dict[str, Any] | None:
    """Return what to write into the training file of a request so that it becomes another one.

    `beside` are settings in which the file is not what `before` says, as those that were given beside it. None where
    the request is from no file, or the file has no fields for the change.
    """
    record = None if before.source is None else before.source.file
    if record is None:
        return None
    # What was said beside the file is not in it, and belongs into a copy.
    own = {item.becomes.partition(".")[0] for item in record.fields if item.origin is Origin.OPTION}
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in _OF_THE_REQUEST]
    pairs += [
        (item.name, getattr(before.recipe, item.name), getattr(after.recipe, item.name))
        for item in dataclasses.fields(Recipe)
    ]
    change = {name: value for name, other, value in pairs if value != other or name in own or name in beside}
    if change.get("gradient_checkpointing", False) is None:  # what a plan begins with
        change["gradient_checkpointing"] = _switches_checkpointing_on(after)
    framework = next(item for item in FRAMEWORKS.values() if item.name == record.framework)
    index = _index(record)
    replaced = {item.name for item in record.fields if item.origin is Origin.OPTION}
    is_script = record.framework in _WITH_DTYPE and _is_script(record)
    spelt = {}
    for name, value in framework.spell(change, record.spelling).items():
        plain = str(value) if type(value) not in (str, int, float, bool, dict, list, type(None)) else value
        default = index[name].find_default(record.version) if name in index else None
        if is_script and name in _IN_A_SCRIPT:  # the defaults are those of TRL's command
            default = None
            if name == "use_peft":
                plain = "LoraConfig" if plain else None
        spelling = record.spelled.get(name) or (_name_in_script(record, name) if is_script else name)
        if spelling in replaced or plain != record.spelling.get(name, default):
            spelt[spelling] = plain
    return spelt or None


def _switches_checkpointing_on(request: Request) -> bool:
    """Tell whether the preparation of a base switches checkpointing on, where nothing says so."""
    is_packed = request.quantization not in (None, Quantization.NONE)
    return is_packed and request.peft is not None and request.preparation == Preparation.PEFT


def _name_in_script(record: TrainingFile, name: str) -> str:
    """Return how a script says a field that it has not yet, the field itself where arguments of a trainer say it."""
    if name not in _OF_THE_MODEL:
        return _IN_A_SCRIPT.get(name, name)
    is_loaded = record.spelled.get("model_name_or_path", "").endswith("from_pretrained")
    return f"{name} in {'from_pretrained' if is_loaded else 'model_init_kwargs'}"


def check_copy(target: str, original: str) -> Path:
    """Return the file to write a changed copy to; raise UsageError for the original itself."""
    path = Path(target).expanduser()
    if Path(original).suffix.lower() not in (".yaml", ".yml", ".json", ".toml"):
        raise UsageError(
            f"--write-changes: what to change in {quoted(original, 60)} is printed and not written, since it is code; "
            "drop it."
        )
    try:
        if path.exists() and path.samefile(Path(original).expanduser()):
            raise UsageError(f"--write-changes {quoted(target, 60)} is the file itself; name another one.")
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"--write-changes {quoted(target, 60)} is no file in a folder that there is; name one.")
    except OSError as error:
        raise UsageError(f"--write-changes {quoted(target, 60)} cannot be written; name another file.") from error
    return path


def make_changed_copy(record: TrainingFile, changes: Mapping[str, Any]) -> str:
    """Return the text of a training file with fields changed or added."""
    path = Path(record.path).expanduser()
    inside = {name: value for name, value in changes.items() if name != ALLOCATOR}
    text = path.read_text(encoding="utf-8-sig")
    suffix = path.suffix.lower()
    if suffix == ".json":
        document = dict(read_document(path))  # type: ignore[arg-type]  # a JSON file holds no calls
        return json.dumps({**document, **inside}, indent=2, ensure_ascii=False) + "\n"
    for name, value in inside.items():
        text = _set_in_yaml(text, name, value) if suffix != ".toml" else _set_in_toml(text, name, value)
    if ALLOCATOR in changes and record.framework == "TRL" and suffix in (".yaml", ".yml"):  # TrlParser sets it
        content = read_document(path)
        environment = content.get("env") if isinstance(content, Mapping) else None
        settings = {**(environment if isinstance(environment, Mapping) else {}), ALLOCATOR: changes[ALLOCATOR]}
        text = _set_in_yaml(text, "env", settings)
    elif ALLOCATOR in changes:
        text += f"# and in the environment of the run: {ALLOCATOR}={changes[ALLOCATOR]}\n"
    return text


def _set_in_yaml(text: str, name: str, value: Any) -> str:
    """Return a YAML text with a key of its first level set."""
    written = json.dumps(value) if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][\w./-]*", value) else value
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n"):
        written = json.dumps(value)
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, item in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == name:
            end = item.end_mark.index
            before = text[: key.end_mark.index]
            tail = text[end:]
            if text[:end].endswith("\n"):  # a block ends where the next key begins
                tail = "\n" + tail
            return f"{before}: {written}{tail}"
    is_flow = isinstance(node, yaml.MappingNode) and node.flow_style
    if is_flow:
        end = node.end_mark.index - 1
        return f"{text[:end].rstrip().rstrip(',')}, {name}: {written}{text[end:]}"
    ends = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{ends}{name}: {written}\n"


def _set_in_toml(text: str, name: str, value: Any) -> str:
    """Return a TOML text with a key of its first level set."""
    line = f"{name} = {json.dumps(value)}"
    head = re.search(r"^\s*\[", text, re.MULTILINE)
    top, rest = (text[: head.start()], text[head.start() :]) if head else (text, "")
    changed, count = re.subn(rf"^{re.escape(name)}\s*=.*$", lambda _match: line, top, count=1, flags=re.MULTILINE)
    return changed + rest if count else f"{line}\n{text}"
