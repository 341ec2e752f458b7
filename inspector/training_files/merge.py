"""What files say and what was given beside them -> the arguments of a Request, and the record of where each is from.

What was given beside a file goes before it. A launcher's file goes before the defaults of a training file, and behind
what that file says.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inspector.errors import UsageError, one_line, quoted
from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.request import LoraOptions, Request
from inspector.records.training_file import FieldNotModelled, Origin, RequestSource, TrainingFile
from inspector.training_files.names import COMMAND_LINE, has_suffix, is_missing_path
from inspector.training_files.secrets import hide_secrets

if TYPE_CHECKING:
    from inspector.training_files.read import ReadFile

__all__ = ["build_request", "describe_effect", "find_given"]

_OF_A_RECIPE = frozenset(item.name for item in dataclasses.fields(Recipe))
# What several cards are about, and means nothing without one that was named.
_OF_CARDS = ("gpu_count", "sharding", "sharding_settings", "nodes", "tensor_parallel", "expert_parallel")
# What options beside a training file change of the adapter that it has.
_OF_TARGETS = ("targets", "exclude_targets", "modules_to_save")
_COUNTED_GPU = re.compile(r"\s*(\d{1,9})\s*[xX×*]")
# A setting that was given beside a file, and what of the file goes with the one that it replaces.
_GO_TOGETHER = {
    "optimizer": ("optim_args",),
    "gradient_checkpointing": ("use_reentrant", "checkpoint_every", "checkpoint_keeps"),
    "quantization": ("double_quant", "quant_storage", "adapter_dtype"),
    "model": ("revision",),
    "sharding": ("sharding_settings", "nodes", "tensor_parallel", "expert_parallel"),
    "packing": ("padding",),
    "stage": ("loss", "reference", "prompt_len", "completion_len", "num_generations", "vllm_share"),
}
_MOST_NAMED = 6


def build_request(
    arguments: Mapping[str, Any],
    given: frozenset[str],
    *,
    framework: str | None = None,
    launch: Sequence[str] = (),
    base_model: str | None = None,
    strict: bool = False,
    at_hand: bool = False,
) -> Request:
    """Return the request of `arguments`, the fields of a Request and of its Recipe by name.

    Where `model` names a training file, or `launch` files of a launcher, what these say stands in for the arguments
    that are not in `given`. `base_model` is the model in the place of the one that the file names. With `strict` a
    field that changes memory and is not modelled is a UsageError. `at_hand` says that the cards are those of this
    machine, which need no name.
    """
    model = arguments["model"]
    is_file = isinstance(model, str) and has_suffix(model)
    if not (is_file or launch or strict) and framework is base_model is None:
        return _make(arguments)
    from inspector.training_files.read import read_launch_file, read_training_file

    file = read_training_file(model, framework=framework) if isinstance(model, str) else None
    launched = [read_launch_file(name) for name in launch]
    if file is None:
        for name, value in (("framework", framework), ("base_model", base_model)):
            if value is not None:
                raise UsageError(f"`{name}` is about a training file, which {quoted(model, 60)} is not; drop it.")
        if not launched:
            if strict:
                raise UsageError("`strict` is about a training file; name one, or drop it.")
            return _make(arguments)
    read = [item for item in (file, *launched) if item is not None]
    if strict:
        _refuse_what_is_not_modelled([item.record for item in read])
    settings = _merge(arguments, given, file, launched, at_hand=at_hand)
    if file is not None:
        settings["model"] = _find_model(file, base_model)
    source = RequestSource(
        file=None if file is None else _mark_options(file.record, arguments, given, base_model),
        launch=tuple(
            _mark_options(_note_unnamed_cards(item, arguments, at_hand=at_hand), arguments, given, None)
            for item in launched
        ),
    )
    try:
        return _make({**arguments, **settings, "source": source})
    except UsageError as error:
        if file is None:
            raise
        raise UsageError(f"{one_line(model, 100)}: {error}") from error


def find_given(arguments: Mapping[str, Any], names: Iterable[str] = ()) -> frozenset[str]:
    """Return the arguments that are not at their default, and those of `names`: what goes before a file."""
    defaults = {item.name: item.default for kind in (Recipe, Request) for item in dataclasses.fields(kind)}
    given = {name for name, value in arguments.items() if name in defaults and _is_other(value, defaults[name])}
    return frozenset(given | set(names)) - {"model", "advice", "depth"}


def _is_other(value: Any, default: Any) -> bool:
    """Tell whether a value is another one than the default, of which nothing and None are the same."""
    if value is None or value == () or value is default:
        return False
    try:
        return bool(value != default)
    except Exception:  # an object that cannot be compared was given by somebody
        return True


def _make(arguments: Mapping[str, Any]) -> Request:
    """Return the request of fields that are its own or its recipe's."""
    recipe = Recipe(**{name: value for name, value in arguments.items() if name in _OF_A_RECIPE})
    return Request(recipe=recipe, **{name: value for name, value in arguments.items() if name not in _OF_A_RECIPE})


def _merge(
    arguments: Mapping[str, Any],
    given: frozenset[str],
    file: ReadFile | None,
    launched: Sequence[ReadFile],
    *,
    at_hand: bool,
) -> dict[str, Any]:
    """Return what the files say and nobody said otherwise."""
    _refuse_another_count(arguments, given, launched)
    settings: dict[str, Any] = {} if file is None else dict(file.settings)
    said = set() if file is None else {_root(item.becomes) for item in file.record.fields if item.origin is Origin.FILE}
    for item in launched:
        settings |= {name: value for name, value in item.settings.items() if name not in said or name in _OF_CARDS}
    gpus = _list_gpus(arguments)
    if not _names_cards(arguments) and not at_hand:
        settings = {name: value for name, value in settings.items() if name not in _OF_CARDS}
    if any(_COUNTED_GPU.match(name) for name in gpus):
        settings.pop("gpu_count", None)
    for name in given:
        settings.pop(name, None)
        for other in _GO_TOGETHER.get(name, ()):
            settings.pop(other, None)
    if "packing" in given and "x" in str(arguments.get("packing")).lower():  # which says how long a row is
        settings.pop("seq_len", None)
    adapter = None if file is None else file.settings.get("peft")
    part = arguments.get("peft")
    if "peft" in given and isinstance(part, LoraOptions) and part.r is None and isinstance(adapter, LoraOptions):
        changes = {name: value for name in _OF_TARGETS if (value := getattr(part, name)) is not None}
        settings["peft"] = dataclasses.replace(adapter, **changes)
    return settings


def _refuse_another_count(arguments: Mapping[str, Any], given: frozenset[str], launched: Sequence[ReadFile]) -> None:
    """Raise UsageError where a launcher's file starts another number of processes than was named."""
    names = arguments.get("gpus") or ()
    counts = {int(match[1]) for name in ((names,) if isinstance(names, str) else names) if (match := _match(name))}
    if "gpu_count" in given:
        counts.add(arguments["gpu_count"])
    for item in launched:
        started = item.settings.get("gpu_count")
        if isinstance(started, int) and counts and started not in counts:
            raise UsageError(
                f"{one_line(item.record.path, 100)} launches {started:,} processes, and {min(counts):,} cards are "
                "named: name as many, or leave the number to the file."
            )


def _list_gpus(arguments: Mapping[str, Any]) -> list[str]:
    """Return the names of cards that were given."""
    named = arguments.get("gpus") or ()
    return [named] if isinstance(named, str) else [name for name in named if isinstance(name, str)]


def _names_cards(arguments: Mapping[str, Any]) -> bool:
    """Tell whether cards were given, by name or by size."""
    return bool(_list_gpus(arguments) or arguments.get("gpu_memory"))


def _note_unnamed_cards(item: ReadFile, arguments: Mapping[str, Any], *, at_hand: bool) -> TrainingFile:
    """Return the record of a launcher's file, which says so where it is of several cards and none was named."""
    count = item.settings.get("gpu_count")
    is_of_several = count > 1 if isinstance(count, int) else bool(item.settings.get("sharding"))
    if _names_cards(arguments) or at_hand or not is_of_several:
        return item.record
    message = (
        f"{one_line(item.record.path, 60)} is for {count or 'several'} cards, and none is named: figures are of one "
        "card that runs all of it, with nothing sharded. `gpu` says what each card takes and how few are enough."
    )
    notice = Notice(code="cards-not-named", message=message)
    return dataclasses.replace(item.record, remarks=(*item.record.remarks, notice))


def _match(name: Any) -> re.Match[str] | None:
    """Return how many cards a name is of, None where it has no number."""
    return _COUNTED_GPU.match(name) if isinstance(name, str) else None


def _root(becomes: str) -> str:
    """Return the field of a Request that a part belongs to."""
    return becomes.partition(".")[0]


def _find_model(file: ReadFile, base_model: str | None) -> str:
    """Return the model that a file names, or the one in its place; raise UsageError for a path that is not here."""
    if base_model is not None:
        return base_model
    name = file.settings.get("model")
    path = one_line(file.record.path, 100)
    if not isinstance(name, str) or not name.strip():
        if any(remark.code == COMMAND_LINE for remark in file.record.remarks):
            raise UsageError(
                f"{path} takes its model and its arguments from the command line: put them into a YAML file, a field a "
                "line, and name that one (--config of TRL's scripts reads it, too), or add `base_model` and options."
            )
        raise UsageError(f"{path} names no model that can be read; add `base_model`, a Hub id or a path.")
    if "://" in name and hide_secrets(name) != name:
        raise UsageError(
            f"{path} names the model by an address with a secret in it, which is neither asked for nor repeated; add "
            "`base_model`, the Hub id of the model."
        )
    if is_missing_path(name):
        raise UsageError(
            f"{path} names the model {quoted(hide_secrets(name), 100)}, a path that is not on this machine; add "
            "`base_model`, the Hub id or the path of the same model here."
        )
    return name


def _mark_options(
    record: TrainingFile, arguments: Mapping[str, Any], given: frozenset[str], base_model: str | None
) -> TrainingFile:
    """Return the record with the values that were given beside the file."""
    fields = []
    for item in record.fields:
        root = _root(item.becomes)
        if root == "model" and base_model is not None:
            item = dataclasses.replace(item, value=base_model, origin=Origin.OPTION)
        elif root in given and root != "model":
            value = arguments.get(root)
            plain = value if isinstance(value, (str, int, float, bool)) or value is None else root
            item = dataclasses.replace(item, value=hide_secrets(plain), origin=Origin.OPTION)
        fields.append(item)
    return dataclasses.replace(record, fields=tuple(fields))


def _refuse_what_is_not_modelled(records: Sequence[TrainingFile]) -> None:
    """Raise UsageError where a figure would leave something out."""
    missed = [(record, item) for record in records for item in record.not_modelled]
    if missed:
        named = ", ".join(describe_effect(item) for _, item in missed[:_MOST_NAMED])
        more = f" and {len(missed) - _MOST_NAMED} more" if len(missed) > _MOST_NAMED else ""
        raise UsageError(
            f"{one_line(missed[0][0].path, 100)} changes memory in what is not modelled, and `strict` was given: "
            f"{named}{more}; drop these or `strict`."
        )


def describe_effect(item: FieldNotModelled) -> str:
    """Return a field that is not modelled with the direction in which it changes memory."""
    return f"{one_line(item.name, 60)} ({item.effect.direction})"
