"""Autocast for meta tensors after the lists of CUDA (ATen/autocast_mode.h), for the time of a trace.

torch casts in kernels of a dispatch key above autograd, AutocastCUDA, which meta tensors do not have. They get one
here: a key that no backend of these builds uses is switched on for this thread, and the ops of the lists get kernels
for it. A kernel does what `ATen/autocast_mode.cpp` does: switch the key off, cast, call the op again; everything below
(autograd's formulas, the rules of `apply_cuda_rules`) then sees what it sees on CUDA. Whether autocast is on, its dtype
and its cache are torch's own state for CUDA, which `torch.autocast`, checkpointing and model code set as in a real run.

Not covered: recurrent layers of cuDNN, whose weights autocast casts as one flat buffer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint
from torch.utils.weak import WeakIdKeyDictionary

from inspector.compat.torch import (
    autocast_key,
    below_autocast,
    dispatcher_rules,
    has_kernel_for_key,
    is_key_excluded,
    is_key_included,
    is_view,
    schema_of,
    set_key_excluded,
    set_key_included,
)
from inspector.runtime.patches import call_at_end, replace_attribute, restore_changes

__all__ = [
    "FLOAT32",
    "FLOAT32_RESULT",
    "LOWER_PRECISION",
    "WIDEST",
    "apply_autocast_rules",
    "provide_autocast_for_meta",
]

# The lists of ATen/autocast_mode.h. An op that the installed torch does not list for CUDA gets no kernel.
LOWER_PRECISION = (
    "_convolution", "_convolution.deprecated", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d",
    "conv_transpose2d.input", "conv_transpose3d.input", "convolution", "prelu", "addmm", "addmv", "addr", "matmul",
    "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot",
    "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "_scaled_dot_product_flash_attention", "scaled_dot_product_attention", "cudnn_convolution",
    "cudnn_convolution_transpose",
)  # fmt: skip
FLOAT32 = (
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh",
    "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm",
    "rms_norm", "group_norm", "frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim", "cosine_similarity",
    "poisson_nll_loss", "cosine_embedding_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss",
    "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss",
    "triplet_margin_loss", "multi_margin_loss", "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm",
    "logsumexp", "upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_nearest2d", "_upsample_nearest_exact2d",
    "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bicubic2d_aa",
)  # fmt: skip
# Asked for a float32 result, unless the caller asked for a dtype; the kernel reads its input as it is.
FLOAT32_RESULT = (
    "prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm",
    "linalg_matrix_norm", "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList",
)  # fmt: skip
_UNSCALE = "_amp_foreach_non_finite_check_and_unscale_"
# The same with an overload that takes the dtype.
_WITH_DTYPE = {"norm.Scalar": "ScalarOpt_dtype", "norm.ScalarOpt_dim": "ScalarOpt_dim_dtype"}
WIDEST = (
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot",
    "scatter_add",
)  # fmt: skip


@contextlib.contextmanager
def apply_autocast_rules() -> Iterator[None]:
    """Make meta tensors follow CUDA's autocast inside the block, wherever autocast is on."""
    key = autocast_key()
    with restore_changes():
        library, others = dispatcher_rules("aten"), dispatcher_rules("_")
        others.fallback(torch.library.fallthrough_kernel, key)
        casts = _Casts()
        for policy, names in ((_choose_lower, LOWER_PRECISION), (_choose_float32, FLOAT32), (_choose_widest, WIDEST)):
            for name in filter(_is_listed, names):
                library.impl(name, _Casting(_overload(name), policy, casts), key)
        for name in filter(_is_listed, FLOAT32_RESULT):
            library.impl(name, _ask_for_float32(_overload(name)), key)
        for name in filter(_is_listed, _WITH_DTYPE):
            norm = _append_float32(_overload(name), _overload(f"norm.{_WITH_DTYPE[name]}"))
            library.impl(name, norm, key)
        library.impl(_UNSCALE, _unscale, key)
        _clear_with_torch(casts)
        _switch_on(key)
        yield


@contextlib.contextmanager
def provide_autocast_for_meta() -> Iterator[None]:
    """Let code ask for autocast on the meta device, which torch has none of: it is that of CUDA, with or without a GPU.

    PEFT turns autocast off around the experts that it adapts, early releases of transformers 5 ask if it is on, and
    checkpointing enters it again when it computes a block the second time: that of CUDA too where a block was called
    with keywords alone, whose devices it does not look at.
    """
    make = torch.autocast.__init__

    def make_for_cuda(
        self: torch.autocast,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if device_type not in ("meta", "cuda"):
            make(self, device_type, dtype, enabled, cache_enabled)
            return
        # Where there is no GPU torch turns autocast off: asked for as off it does not look for one.
        make(self, "cuda", dtype, False, cache_enabled)
        self._enabled = enabled

    with restore_changes():
        replace_attribute(torch.autocast, "__init__", make_for_cuda)
        replace_attribute(checkpoint.DefaultDeviceType, "get_device_type", staticmethod(lambda: "cuda"))
        for module, name in (
            (torch, "is_autocast_enabled"),
            (torch, "get_autocast_dtype"),
            (torch.amp, "is_autocast_available"),
        ):
            replace_attribute(module, name, _answer_for_cuda(getattr(module, name)))
        yield


def _answer_for_cuda(query: Callable[..., Any]) -> Callable[..., Any]:
    """Return a query of a device type's autocast that answers for CUDA where it is asked about meta."""
    return lambda *device_type: query(*("cuda" if name == "meta" else name for name in device_type))


# --- the cache --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Casts:
    """Casts of weights, which live until the outermost autocast context ends (`cached_cast`, autocast_mode.cpp)."""

    _by_weight: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)
    _alive: list[Tensor] = field(default_factory=list)

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `tensor` in `dtype`; the cast of a float32 leaf that trains to the lower precision is kept."""
        if not _is_eligible(tensor) or tensor.dtype is dtype:
            return tensor
        is_kept = (
            dtype is torch.get_autocast_dtype("cuda")
            and tensor.dtype is torch.float32
            and tensor.requires_grad
            and tensor.is_leaf
            and not is_view(tensor)
            and torch.is_autocast_cache_enabled()
        )
        if not is_kept:
            return tensor.to(dtype)
        if tensor not in self._by_weight:
            self._by_weight[tensor] = tensor.to(dtype)
            self._alive.append(self._by_weight[tensor])
        result: Tensor = self._by_weight[tensor]
        return result

    def clear(self) -> None:
        """Drop the casts."""
        self._by_weight.clear()
        self._alive.clear()


def _clear_with_torch(casts: _Casts) -> None:
    """Drop the casts when torch drops its own, as the outermost `torch.autocast` does when it ends."""
    clear = torch.clear_autocast_cache

    def clear_both() -> None:
        clear()
        casts.clear()

    replace_attribute(torch, "clear_autocast_cache", clear_both)


# --- the kernels ------------------------------------------------------------------------------------------------------

_Policy = Callable[[list[Tensor]], "torch.dtype"]


@dataclass(frozen=True, slots=True)
class _Casting:
    """The kernel of an op whose arguments are cast to the dtype that a policy names."""

    op: Any
    policy: _Policy
    casts: _Casts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Cast and call the op; arguments are cast from the last to the first, as gcc evaluates them.

        Copies that nothing keeps die in the opposite order, as C++ ends temporaries: the first one first.
        """
        with below_autocast():
            if not torch.is_autocast_enabled("cuda"):
                return self.op(*args, **kwargs)
            dtype = self.policy([tensor for argument in args for tensor in _eligible(argument)])
            cast = [self._cast(argument, dtype) for argument in reversed(args)]
            result = self.op(*reversed(cast), **kwargs)
            while cast:
                cast.pop()
            return result

    def _cast(self, argument: Any, dtype: torch.dtype) -> Any:
        """Cast a tensor or the tensors of a list."""
        if isinstance(argument, Tensor):
            return self.casts.cast(argument, dtype)
        if isinstance(argument, (list, tuple)) and any(isinstance(item, Tensor) for item in argument):
            return [self._cast(item, dtype) for item in argument]
        return argument


def _choose_lower(_tensors: list[Tensor]) -> torch.dtype:
    """Return the lower precision that autocast is on for."""
    return torch.get_autocast_dtype("cuda")


def _choose_float32(_tensors: list[Tensor]) -> torch.dtype:
    """Return float32, whatever comes in."""
    return torch.float32


def _choose_widest(tensors: list[Tensor]) -> torch.dtype:
    """Return float32 where one of the tensors has it, else the lower precision (`prioritize`, autocast_mode.h)."""
    is_wide = any(tensor.dtype is torch.float32 for tensor in tensors)
    return torch.float32 if is_wide else torch.get_autocast_dtype("cuda")


def _ask_for_float32(op: Any) -> Callable[..., Any]:
    """Return the kernel of an op that is asked for a float32 result unless the caller asked for a dtype."""
    names = [argument.name for argument in schema_of(op).arguments]
    by_name = next(argument.kwarg_only for argument in schema_of(op).arguments if argument.name == "dtype")
    position = names.index("dtype")

    def run(*args: Any, **kwargs: Any) -> Any:
        with below_autocast():
            if torch.is_autocast_enabled("cuda") and _is_eligible(args[0]):
                if by_name:
                    kwargs = {**kwargs, "dtype": kwargs.get("dtype") or torch.float32}
                elif len(args) <= position or args[position] is None:
                    args = (*args[:position], torch.float32)
            return op(*args, **kwargs)

    return run


def _append_float32(op: Any, with_dtype: Any) -> Callable[..., Any]:
    """Return the kernel of a norm whose overload with a dtype is asked for float32 instead."""
    count = len(schema_of(op).arguments)

    def run(*args: Any, **kwargs: Any) -> Any:
        with below_autocast():
            if not (torch.is_autocast_enabled("cuda") and _is_eligible(args[0])):
                return op(*args, **kwargs)
            defaults = tuple(argument.default_value for argument in schema_of(op).arguments[len(args) : count])
            return with_dtype(*args, *defaults, dtype=torch.float32)

    return run


def _unscale(gradients: list[Tensor], found_inf: Tensor, inverse_scale: Tensor) -> None:
    """Unscale gradients in place; CUDA has a kernel for float16 and float32 only (native/cuda/AmpKernels.cu)."""
    with below_autocast():
        if any(gradient.dtype is torch.bfloat16 for gradient in gradients):
            raise NotImplementedError(f"\"{_UNSCALE}cuda\" not implemented for 'BFloat16'")
        _overload(_UNSCALE)(gradients, found_inf, inverse_scale)


def _eligible(argument: Any) -> Iterator[Tensor]:
    """Yield the tensors of an argument that autocast casts."""
    for item in argument if isinstance(argument, (list, tuple)) else (argument,):
        if isinstance(item, Tensor) and _is_eligible(item):
            yield item


def _is_eligible(tensor: Tensor) -> bool:
    """Tell whether autocast casts a tensor: floating-point, but not float64, on the device that stands for CUDA."""
    return tensor.is_floating_point() and tensor.dtype is not torch.float64 and tensor.device.type == "meta"


def _is_listed(name: str) -> bool:
    """Tell whether the installed torch lists an op for CUDA."""
    return has_kernel_for_key(f"aten::{name}", "AutocastCUDA")


def _overload(name: str) -> Any:
    """Return the op of a name with or without an overload."""
    base, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, base), overload or "default")


def _switch_on(key: str) -> None:
    """Send every op of this thread, and of the backward passes that it starts, through the key."""
    call_at_end(set_key_included, key, is_key_included(key))
    call_at_end(set_key_excluded, key, is_key_excluded(key))
    set_key_included(key, True)
    set_key_excluded(key, False)
