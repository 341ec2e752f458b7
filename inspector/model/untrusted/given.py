"""Which sizes of a model its config.json gives, and which the class's defaults would stand in for.

`{"model_type": "llama"}` is a whole Llama-2-7b to transformers: every size has a default. Counted, it would be another
model than the one meant, as would a file with `hiden_size`. The rule, which docs/explain/counting.md explains:

1. `list_sizes` has the *sizes of a class*: its own fields for the width, the layers, the heads, the vocabulary, the
   feed-forward part and the experts, by the names that transformers has for them, where their default is a number.
2. A file has to give each size of its own class, since transformers saves them all: `to_diff_dict` leaves out what
   equals a default of the base class alone. Given is what is named, under the field's name or one that the class's
   `attribute_map` leads to it, and what the class has made another value of than its default (older spellings).
3. A part (`text_config`) that is there is what differs from its class's defaults, as transformers saves it: what it
   leaves out stands, unless nothing in the file gives any size. A part that is not there has to be given by the whole,
   as Qwen2-VL's text is.
4. An integer that no class knows, spelt nearly as a field that is not given, is a slip.

Not covered: classes whose code comes from a repository.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from inspector.errors import UnsupportedModelError, one_line

__all__ = ["Gaps", "check_counts", "find_gaps", "list_sizes"]

# The names that transformers documents for what nearly all models have (PretrainedConfig, "common attributes"), and
# those of feed-forward parts and experts, which no attribute_map leads to.
_LAYERS = "num_hidden_layers"
_SIZES = (
    *("hidden_size", _LAYERS, "num_attention_heads", "vocab_size", "num_key_value_heads"),
    *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_hidden_size", "mlp_dim"),
    *("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size"),
)
# Llama-3.1-405B has 126 layers; of more than these it is said at once, not after seconds of building.
_MOST_LAYERS = 10_000
_MOST_LISTED = 5
# How alike a slip is to what was meant (difflib's ratio). `num_key_value_head` has 0.97; `in_chans`, which
# Qwen2.5-VL's files hold beside the default of in_channels, has 0.84.
_ALIKE, _ALIKE_A_SIZE = 0.9, 0.8
# Indices and tokens say nothing of a size.
_NO_SIZE = ("_id", "_ids", "_index", "_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """What a config.json does not give: `missing` sizes by their paths, and fields `misspelt` with what was meant."""

    missing: tuple[str, ...]
    misspelt: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self.missing or self.misspelt)

    def describe(self) -> str:
        """Return what is missing and misspelt, as the end of a sentence that begins with the config.json."""
        parts = []
        if self.missing:
            more = len(self.missing) - _MOST_LISTED
            listed = ", ".join(map(one_line, self.missing[:_MOST_LISTED]))
            parts.append(f"does not say {listed}{f' and {more} more' if more > 0 else ''}")
        if self.misspelt:
            pairs = (f"{one_line(written, 60)} (did you mean {meant}?)" for written, meant in self.misspelt[:3])
            parts.append(f"has {', '.join(pairs)}")
        return " and ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A configuration or one inside it: its path, what the file says of it (None where it is not there), and around."""

    path: str
    config: PretrainedConfig
    fields: Mapping[str, Any] | None
    around: Mapping[str, Any]

    def gives(self, name: str) -> bool:
        """Tell whether the file gives a size of the part."""
        fields = self.around if self.fields is None else self.fields
        if not _list_spellings(type(self.config), name).isdisjoint(fields):
            return True
        default = _list_defaults(type(self.config)).get(name)
        return default is not None and bool(vars(self.config).get(name) != default)


def list_sizes(config_class: type[PretrainedConfig]) -> list[str]:
    """Return the sizes of a class: own fields by these names whose default is a number or a list of numbers."""
    defaults = _list_defaults(config_class)
    return [name for name in _list_known(config_class, _SIZES) if _is_size(defaults.get(name))]


def find_gaps(config: PretrainedConfig, fields: Mapping[str, Any]) -> Gaps:
    """Return what `fields`, a config.json, leaves to the defaults of `config`, which was made of it."""
    parts = list(_list_parts("", config, fields, {}))
    missing = [
        part.path + name
        for part in parts
        if part.fields is None or not part.path
        for name in list_sizes(type(part.config))
        if not part.gives(name)
    ]
    own = _list_defaults(type(config))
    if not any(list_sizes(type(part.config)) for part in parts):  # a convolutional network, say: any field will do
        missing = (
            [] if own.keys() & fields.keys() else [name for name, default in own.items() if _is_size(default, name)]
        )
    elif not missing and "transformers_version" not in fields and not _is_any_given(parts):
        missing = [part.path + name for part in parts for name in list_sizes(type(part.config))]
    return Gaps(missing=tuple(missing), misspelt=tuple(slip for part in parts for slip in _list_slips(part)))


def check_counts(config_class: type[PretrainedConfig], fields: Mapping[str, Any], path: str = "") -> None:
    """Refuse a negative size and more layers than any model has, before anything is made of them."""
    layers = _list_known(config_class, (_LAYERS, "num_decoder_layers", "depths"))
    for name in {*layers, *list_sizes(config_class)}:
        for key in sorted(_list_spellings(config_class, name) & set(fields)):
            for value in fields[key] if isinstance(fields[key], (list, tuple)) else (fields[key],):
                if _is_integer(value) and (value < 0 or (name in layers and value > _MOST_LAYERS)):
                    wanted = f"a number of layers up to {_MOST_LAYERS:,}" if name in layers else "a size"
                    raise UnsupportedModelError(
                        f"config.json: {one_line(path + key)} = {value} is not {wanted}; correct it."
                    )
    for name, part_class in config_class.sub_configs.items():
        part = fields.get(name)
        if isinstance(part, Mapping):
            model_type = part.get("model_type")
            named = CONFIG_MAPPING[model_type] if isinstance(model_type, str) and model_type in CONFIG_MAPPING else None
            if named or issubclass(part_class, PretrainedConfig):
                check_counts(named or part_class, part, f"{path}{name}.")


def _list_parts(
    path: str, config: PretrainedConfig, fields: Mapping[str, Any] | None, around: Mapping[str, Any]
) -> Iterator[_Part]:
    """Yield a configuration and those inside it; a backbone that is named instead of described is none of them."""
    yield _Part(path=path, config=config, fields=fields, around=around)
    for name in config.sub_configs:
        part = getattr(config, name, None)
        inside = {} if fields is None else fields
        described = inside.get(name)
        if isinstance(part, PretrainedConfig) and (described is not None or "backbone" not in inside):
            given = described if isinstance(described, Mapping) else None
            yield from _list_parts(f"{path}{name}.", part, given, around if fields is None else fields)


def _is_any_given(parts: list[_Part]) -> bool:
    """Tell whether the file gives any size at all."""
    return any(part.gives(name) for part in parts for name in list_sizes(type(part.config)))


def _list_slips(part: _Part) -> Iterator[tuple[str, str]]:
    """Yield integers, and parts, that no class knows and that are spelt nearly as something that is not given."""
    if part.fields is None:
        return
    config_class = type(part.config)
    defaults, sizes = _list_defaults(config_class), list_sizes(config_class)
    known = {*defaults, *config_class.attribute_map, *config_class.sub_configs}
    absent = [name for name, default in defaults.items() if default is None or _is_size(default, name)]
    absent = [name for name in absent if not name.endswith(_NO_SIZE) and not part.gives(name)]
    for key, value in part.fields.items():
        if not isinstance(key, str) or key in known or hasattr(config_class, key):
            continue
        if isinstance(value, Mapping):
            meant = difflib.get_close_matches(key, set(config_class.sub_configs) - set(part.fields), 1, _ALIKE_A_SIZE)
        else:
            meant = difflib.get_close_matches(key, sizes, 1, _ALIKE_A_SIZE) if _is_size(value) else []
            meant = meant or (difflib.get_close_matches(key, absent, 1, _ALIKE) if _is_size(value) else [])
        is_given = bool(meant) and not isinstance(value, Mapping) and part.gives(meant[0])
        if meant and not is_given and key not in _list_own_fields(config_class):
            yield part.path + key, meant[0]


def _list_defaults(config_class: type[PretrainedConfig]) -> dict[str, Any]:
    """Return the fields of a class with their defaults; those that every class has are left out."""
    common = inspect.signature(PretrainedConfig.__init__).parameters
    own = inspect.signature(config_class.__init__).parameters
    return {name: parameter.default for name, parameter in own.items() if name not in common}


def _list_own_fields(config_class: type[PretrainedConfig]) -> set[str]:
    """Return what a configuration of the class has when nothing is given: more than the class declares, in some."""
    try:
        return set(vars(config_class()))
    except Exception:  # a few cannot be made of nothing
        return set()


def _list_known(config_class: type[PretrainedConfig], names: tuple[str, ...]) -> list[str]:
    """Return the fields of a class that these names stand for, of an encoder and of its decoder."""
    mapped = [config_class.attribute_map.get(name, name) for name in names]
    both = dict.fromkeys((*mapped, *(name.replace("encoder", "decoder") for name in mapped)))
    defaults = _list_defaults(config_class)
    return [name for name in both if name in defaults]


def _list_spellings(config_class: type[PretrainedConfig], name: str) -> set[str]:
    """Return the names under which a file can give a field."""
    return {name, *(alias for alias, target in config_class.attribute_map.items() if target == name)}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any, name: str = "") -> bool:
    """Tell whether a value is a number or a list of numbers, by a name that says no more than a token or an index."""
    values = value if isinstance(value, (list, tuple)) and value else (value,)
    return all(map(_is_integer, values)) and not name.endswith(_NO_SIZE)
