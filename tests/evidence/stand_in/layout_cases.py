"""Ops on images and rows, recorded as `kernel_cases` are: what they copy follows from how these are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from tests.evidence.stand_in.kernel_cases import BFLOAT16, FLOAT32, Case, add_backward, numbers, values

LAYOUTS: dict[str, Case] = {}


def _floats(*shape: int, dtype: torch.dtype = FLOAT32) -> Callable[[str], Tensor]:
    """Return what makes floating-point numbers that train."""
    return lambda device: values(device, *shape, dtype=dtype, grad=True)


def _case(name: str, run: Callable[..., Tensor], *make: Callable[[str], Tensor]) -> None:
    add_backward(LAYOUTS, name, run, *make)


def _last(image: Tensor) -> Tensor:
    """Return an image whose channels are innermost."""
    return image.permute(0, 3, 1, 2)


def _turn(image: Tensor) -> Tensor:
    """Return an image with rows for columns."""
    return image.transpose(2, 3)


def _take_part(image: Tensor, mode: str) -> Tensor:
    """Return an image that is scaled beside others, whose gradient is a part of theirs."""
    return torch.cat([functional.interpolate(image, size=(32, 32), mode=mode), image.new_zeros(2, 8, 32, 32)], dim=1)


_PLAIN, _LAST = _floats(2, 16, 20, 24), _floats(2, 20, 24, 16)
_STORED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[str], Tensor]]] = {
    "contiguous": (lambda image: image, _PLAIN),
    "channels last": (_last, _LAST),
    "turned": (_turn, _PLAIN),
}
for _name, (_store, _image) in _STORED.items():
    _case(
        f"convolution of {_name}",
        lambda image, weight, bias, store=_store: functional.conv2d(store(image), weight, bias),
        *(_image, _floats(24, 16, 3, 3), _floats(24)),
    )
    _case(
        f"turned convolution of {_name}",
        lambda image, weight, bias, store=_store: _turn(functional.conv2d(store(image), weight, bias)),
        *(_image, _floats(24, 16, 3, 3), _floats(24)),
    )
    _case(
        f"convolution of each channel, {_name}",
        lambda image, weight, bias, store=_store: functional.conv2d(store(image), weight, bias, padding=3, groups=16),
        *(_image, _floats(16, 1, 7, 7), _floats(16)),
    )
    _case(
        f"transposed convolution of {_name}",
        lambda image, weight, bias, store=_store: functional.conv_transpose2d(store(image), weight, bias),
        *(_image, _floats(16, 24, 2, 2), _floats(24)),
    )
    _case(
        f"batch norm of {_name}",
        lambda image, weight, bias, store=_store: functional.batch_norm(
            store(image), None, None, weight, bias, training=True
        ),
        *(_image, _floats(16), _floats(16)),
    )
    _case(f"largest of {_name}", lambda image, store=_store: functional.max_pool2d(store(image), 2), _image)
    _case(f"means of {_name}", lambda image, store=_store: functional.avg_pool2d(store(image), 2), _image)
    _case(f"16 means of {_name}", lambda image, store=_store: functional.adaptive_avg_pool2d(store(image), 4), _image)
    for _mode in ("nearest", "bilinear", "bicubic"):
        _case(
            f"{_mode} scaling of {_name}, of which a part gets a gradient",
            lambda image, store=_store, mode=_mode: _take_part(store(image), mode),
            _image,
        )
_case(
    "convolution of patches",
    lambda image, weight: functional.conv2d(image.detach(), weight, stride=4).flatten(2).transpose(1, 2),
    *(_PLAIN, _floats(24, 16, 4, 4)),
)
_case(
    "convolution of turned lines, turned",
    lambda line, weight: functional.conv1d(line.transpose(1, 2), weight, padding=1).transpose(1, 2),
    *(_floats(2, 200, 16), _floats(24, 16, 3)),
)
_case(
    "convolution of each channel of turned lines",
    lambda line, weight: functional.conv1d(line.transpose(1, 2), weight, padding=3, groups=16),
    *(_floats(2, 200, 16), _floats(16, 1, 4)),
)
_case(
    "convolution of turned lines with a turned weight",
    lambda line, weight: functional.conv1d(line.transpose(1, 2), weight.transpose(1, 2)),
    *(_floats(2, 200, 16), _floats(24, 3, 16)),
)
_case(
    "convolution of volumes",
    lambda volume, weight: functional.conv3d(volume.permute(0, 2, 1, 3, 4), weight, stride=2),
    *(_floats(2, 8, 3, 20, 20), _floats(16, 3, 2, 2, 2)),
)
for _rows in (64, 5000):
    _case(
        f"batch norm of {_rows} rows",
        lambda rows, weight, bias: functional.batch_norm(rows, None, None, weight, bias, training=True),
        *(_floats(_rows, 16), _floats(16), _floats(16)),
    )
_case(
    "batch norm of channels last in bfloat16",
    lambda image, weight, bias: functional.batch_norm(_last(image), None, None, weight, bias, training=True),
    *(_floats(2, 20, 24, 16, dtype=BFLOAT16), _floats(16), _floats(16)),
)
_case(
    "layer norm whose gradient is turned",
    lambda rows, weight, bias: functional.layer_norm(rows, (16,), weight, bias).transpose(1, 2),
    *(_floats(2, 200, 16), _floats(16), _floats(16)),
)
for _name, _rows, _columns, _dtype in (
    ("few rows", 200, 16, FLOAT32),
    ("rows in bfloat16", 200, 16, BFLOAT16),
    ("many rows", 70_000, 16, FLOAT32),
    ("many rows in bfloat16", 70_000, 16, BFLOAT16),
):
    _case(
        f"RMS norm of {_name}",
        lambda rows, weight, columns=_columns: functional.rms_norm(rows, (columns,), weight, 1e-6),
        *(_floats(2, _rows // 2, _columns, dtype=_dtype), _floats(_columns, dtype=_dtype)),
    )
_case("RMS norm without a weight", lambda rows: functional.rms_norm(rows, (16,)), _floats(2, 200, 16))
_case(
    "RMS norm whose weight is frozen",
    lambda rows, weight: functional.rms_norm(rows, (16,), weight.detach()),
    *(_floats(2, 200, 16), _floats(16)),
)
_case(
    "RMS norm in bfloat16 with a weight in float32",
    lambda rows, weight: functional.rms_norm(rows, (16,), weight),
    *(_floats(2, 200, 16, dtype=BFLOAT16), _floats(16)),
)
_case(
    "RMS norm of turned rows whose gradient is turned",
    lambda rows, weight: functional.rms_norm(rows.transpose(1, 2), (200,), weight).transpose(1, 2),
    *(_floats(2, 200, 16), _floats(200)),
)
_case(
    "attention whose gradient is a part",
    lambda query, key: torch.cat(
        [
            functional.scaled_dot_product_attention(*(item.transpose(1, 2) for item in (query, key, key)))
            .transpose(1, 2)
            .flatten(2),
            query.flatten(2),
        ],
        dim=-1,
    ),
    *(_floats(2, 22, 2, 16), _floats(2, 40, 2, 16)),
)
_case("a number to the power of a tensor", lambda powers: 10000.0**powers, _floats(16))
for _shifts in ((3,), (3, 2), (3, 2, 1)):
    _dims = tuple(range(len(_shifts)))
    _case(
        f"roll of {len(_shifts)} dimensions",
        lambda image, shifts=_shifts, dims=_dims: torch.roll(image, shifts, dims),
        _floats(20, 24, 16),
    )
    _case(
        f"roll of {len(_shifts)} dimensions of a view",
        lambda image, shifts=_shifts, dims=_dims: torch.roll(image.transpose(0, 1), shifts, dims),
        _floats(20, 24, 16),
    )


def _look_up(table: Tensor, tokens: int, *, is_turned: bool = False) -> Tensor:
    """Return rows of a table for so many tokens."""
    shape = (40, tokens // 40) if is_turned else (tokens,)
    found = functional.embedding(numbers(str(table.device), *shape), table)
    return found.transpose(0, 1) if is_turned else found


for _rows, _tokens in ((2, 4000), (133, 4000), (134, 4000), (431, 30000), (432, 30000)):
    for _dtype in (FLOAT32, BFLOAT16):
        _case(
            f"table of {_rows} rows for {_tokens} tokens in {_dtype}",
            lambda table, tokens=_tokens: _look_up(table, tokens),
            _floats(_rows, 16, dtype=_dtype),
        )
for _tokens in (1200, 4000):
    _case(
        f"table for {_tokens} tokens, turned",
        lambda table, tokens=_tokens: _look_up(table, tokens, is_turned=True),
        _floats(500, 16),
    )


def _assign(device: str) -> Iterator[None]:
    image = values(device, 64, 32, dtype=FLOAT32)
    mask = numbers(device, 64, 32, dtype=torch.bool)
    yield
    image[mask] = 0.0
    yield


LAYOUTS["a number where a mask holds"] = _assign
