"""What a source delivered: what the user named -> files."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inspector.records.checkpoint import StoredCheckpoint
from inspector.records.diffusion import StoredPipeline
from inspector.records.engines.gguf import GgufModel
from inspector.records.notice import Notice

__all__ = [
    "CatalogueEntry",
    "Published",
    "SentenceModule",
    "ServedFrom",
    "SourceFiles",
]


class ServedFrom(str, enum.Enum):
    """Where the configuration came from.

    HUB: asked for over the network in this run (a file may still have come from the cache once its commit was known).
    CACHE: the local Hugging Face cache, with no request made or after the network failed.
    LOCAL: a file or directory on this machine, or an object of the Python API.
    BUNDLED: the catalogue that ships with the inspector.
    """

    HUB = "hub"
    CACHE = "cache"
    LOCAL = "local"
    BUNDLED = "bundled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A count that was published elsewhere for the same model.

    `parameters` is a number of elements, `kind` says what was counted, `source` where it stands. `explanation` says in
    a sentence why it differs from the model's own count, where that is known.
    """

    parameters: int
    kind: str
    source: str
    explanation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """A model of the bundled catalogue, as a list shows it: its id, its other names, what it is, what was published."""

    id: str
    aliases: tuple[str, ...]
    model_type: str
    published: Published


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceModule:
    """A module that sentence-transformers runs behind the pooling of an encoder, by the name of its class.

    Of a Dense the sizes and the name of its activation's class are known. `is_plain` tells whether it makes the vector
    of a text of that vector alone.
    """

    kind: str
    in_features: int | None = None
    out_features: int | None = None
    bias: bool = False
    activation: str | None = None
    is_plain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFiles:
    """What a source delivered for one model.

    `config` is the parsed config.json. `code_location` is the Hub id or directory that remote code would come from.
    `checkpoint_dtype` is the dtype of the stored weights where the config does not say it, `checkpoint` what is stored.
    `adapter_config` and `adapter_id` are set when the user named an adapter; the rest is then of its base model, which
    a folder may hold beside it. `adapter_alone` is set while that base is still to be found. `pooling` is how sentence-
    transformers makes one vector of a text's tokens, where the source says so: `mean`, `cls` and so on, and
    `sentence_modules` what it runs behind that. `processor` is what the source says of images, videos and
    sound, `pipeline` the parts of one of diffusers, whose denoiser's configuration `config` then is. `gguf` is what
    a GGUF file holds, which has no configuration beside it. `decoding` is what the generation_config.json beside the
    config says of how tokens are chosen, None where there is none or nobody asked. `mixed_adapters` are the
    adapter_config.json of the adapters that an X-LoRA adapter mixes, by their names in it.
    """

    id: str
    revision: str | None = None
    served_from: ServedFrom
    config: Mapping[str, Any]
    code_location: str | None = None
    checkpoint_dtype: str | None = None
    published: Published | None = None
    adapter_config: Mapping[str, Any] | None = None
    adapter_id: str | None = None
    adapter_alone: bool = False
    checkpoint: StoredCheckpoint | None = None
    pooling: str | None = None
    sentence_modules: tuple[SentenceModule, ...] = ()
    processor: Mapping[str, Any] | None = None
    pipeline: StoredPipeline | None = None
    gguf: GgufModel | None = None
    decoding: Mapping[str, Any] | None = None
    mixed_adapters: Mapping[str, Mapping[str, Any]] | None = None
    notices: Sequence[Notice] = ()
