"""Private names of transformers.

Names that some supported releases lack are read with a default by the functions at the end: without them a model runs
as those releases run it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import import_utils

from inspector.compat.names import private, private_attribute
from inspector.runtime.patches import replace_item, restore_changes

_FLASH = "--attention flash_attention_2"

from_config_of: Callable[[Any], Callable[..., Any]] = private_attribute(
    "transformers.PreTrainedModel._from_config",
    purpose="building a model",
    instead="model_class(config) under the default dtype, with attention set on the configuration",
)
float32_modules_of: Callable[[Any], Any] = private_attribute(
    "transformers.PreTrainedModel._keep_in_fp32_modules",
    purpose="counting",
    instead="PreTrainedModel._get_dtype_plan: the parts that stay float32 under float16",
)
strict_float32_modules_of: Callable[[Any], Any] = private_attribute(
    "transformers.PreTrainedModel._keep_in_fp32_modules_strict",
    purpose="counting",
    instead="PreTrainedModel._get_dtype_plan: the parts that stay float32 under any half precision",
)
model_mapping_of: Callable[[Any], Any] = private_attribute(
    "transformers.AutoModel._model_mapping",
    purpose="choosing a model class",
    instead="the public MODEL_FOR_*_MAPPING of each auto class",
)
ADJUST_REPORT = "_adjust_missing_and_unexpected_keys"
adjust_report_of: Callable[[Any], Callable[..., None]] = private_attribute(
    f"transformers.PreTrainedModel.{ADJUST_REPORT}",
    purpose="comparing a checkpoint with its model",
    instead="where from_pretrained shortens its loading report: the keys before that are wanted",
)
attention_of: Callable[[Any], Any] = private_attribute(
    "transformers.PretrainedConfig._attn_implementation",
    purpose="--attention",
    instead="what says which attention a model runs with",
)
flash_kwargs_function: Callable[[Any], Any] = private(
    "transformers.modeling_flash_attention_utils._lazy_define_process_function",
    purpose=_FLASH,
    instead="what reads from the signature of a function of flash-attn which arguments it takes",
)

# Parameters, buffers and modules that initialize_weights passes over have this attribute (modeling_utils.py).
INITIALIZED_MARK = "_is_hf_initialized"


def flash_attention_names(
    attention: str, fixed: Any, packed: Any, pad: Any, is_available: Callable[..., bool]
) -> Iterator[tuple[dict[Any, Any], dict[Any, Any]]]:
    """Yield (namespace, values) of each place where transformers keeps what it has found of flash-attn.

    `fixed` and `packed` are the two attention functions, `pad` puts sequences back to rows; what takes them out of
    rows, for a piece of a prompt, is transformers' own function, line by line that of the package. Names come and go
    between releases of transformers 5; those that a release has are the ones it uses.
    """
    from transformers import modeling_flash_attention_utils, modeling_utils

    yield (
        vars(modeling_flash_attention_utils),
        {
            "_loaded_implementation": attention,
            "_flash_fn": fixed,
            "_flash_varlen_fn": packed,
            "_pad_fn": pad,
            "_unpad_fn": getattr(modeling_flash_attention_utils, "_unpad_input", None),
            "_process_flash_kwargs_fn": flash_kwargs_function(packed),
        },
    )
    # Early releases ask this function, later ones a table of the releases of flash-attn.
    yield vars(modeling_utils), {"is_flash_attn_2_available": is_available}
    table = getattr(modeling_flash_attention_utils, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", {})
    yield table, {2: {**table.get(2, {}), "general_availability_check": is_available}}


def compatible_flash_implementations(model: Any) -> list[str]:
    """Return the attention implementations that a class runs with in place of flash-attn; none where it says nothing.

    Seen in 5.23.0 (PreTrainedModel._compatible_flash_implementations).
    """
    return getattr(model, "_compatible_flash_implementations", None) or []


def load_fp8_layers() -> Any:
    """Return transformers' module of FP8 layers, None where it cannot be loaded: that of 5.1 imports triton."""
    try:
        from transformers.integrations import finegrained_fp8
    except ImportError:
        return None
    return finegrained_fp8


def experts_implementation(config: Any) -> str | None:
    """Return how experts are run, None in releases that know one way only.

    Seen in 5.23.0 (PretrainedConfig._experts_implementation).
    """
    return getattr(config, "_experts_implementation", None)


def list_unsplit_classes(model: Any) -> set[str]:
    """Return the names of the layers that a model wants whole, which are what FSDP wraps where nothing else is said."""
    return set(getattr(model, "_no_split_modules", None) or ())


def mark_quantized(config: Any) -> None:
    """Mark a configuration as that of a quantized model, as 5.23.0 does (quantizers/base.py, _assign_is_quantized).

    Falcon-Mamba's code asks for it; a release that does not passes over it.
    """
    config._is_quantized = True


def find_neftune_hook() -> Callable[..., Any]:
    """Return the hook that puts NEFTune's noise on embeddings: in `integrations.neftune`, in 5.1 in `trainer_utils`."""
    try:
        from transformers.integrations import neftune
    except ImportError:
        from transformers import trainer_utils as neftune  # type: ignore[no-redef]
    hook: Callable[..., Any] = neftune.neftune_post_forward_hook
    return hook


def list_image_processors(model_type: str) -> list[str]:
    """Return the classes that make images of a type of model into tensors, the backends of one processor.

    A type without one that shares its whole processor with another has that one's, as Qwen3-VL with experts does, and a
    thinker that of its whole.

    Seen in 5.23.0 (models/auto/image_processing_auto.py, IMAGE_PROCESSOR_MAPPING_NAMES): earlier releases have pairs.
    """
    try:
        module = importlib.import_module("transformers.models.auto.image_processing_auto")
    except ImportError:  # without PIL early releases have none
        return []
    known = module.IMAGE_PROCESSOR_MAPPING_NAMES
    found = known.get(model_type) or known.get(model_type.removesuffix("_thinker"))
    if found is None:
        whole = importlib.import_module("transformers.models.auto.processing_auto").PROCESSOR_MAPPING_NAMES
        found = next((known[item] for item in known if whole.get(item, 0) == whole.get(model_type)), None)
    names = found.values() if isinstance(found, dict) else found if isinstance(found, (tuple, list)) else (found,)
    return [name for name in names if isinstance(name, str)]


@contextlib.contextmanager
def take_scipy_as_installed() -> Iterator[None]:
    """Let classes whose loss needs scipy be built without it inside the block.

    Seen in 5.23.0 (utils/import_utils.py, BACKENDS_MAPPING, which `requires_backends` looks into).
    """
    known = getattr(import_utils, "BACKENDS_MAPPING", {})
    with restore_changes():
        replace_item(known, "scipy", (lambda: True, ""))
        yield


def find_frame_count(model: Any) -> Callable[[Any], Any] | None:
    """Return what counts the frames that a model's encoder leaves of so many samples, None where it has none.

    Seen in 5.23.0 on all classes of the wav2vec2 family, `_get_feat_extract_output_lengths`.
    """
    found: Callable[[Any], Any] | None = getattr(model, "_get_feat_extract_output_lengths", None)
    return found
