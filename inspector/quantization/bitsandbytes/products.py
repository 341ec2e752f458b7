"""Which 4-bit products bitsandbytes computes in one fused kernel, without a dequantized weight in memory.

The choice of bitsandbytes 0.50 (backends/cuda/ops.py, `_gemm_4bit_use_custom_cuda`) for M rows of the input and a
weight of N rows and K columns, with the thresholds that it was calibrated with. Most of them end far below the rows of
a training step; products of more than 1,536 rows are never fused. Pure arithmetic: what is not known of a GPU is
decided as for an RTX 4090, as bitsandbytes does.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["is_fused"]

_MOST_ROWS = 1536
_ALWAYS_FUSED_ROWS = 4
_SIMT_ROWS = 7
_SMALL_WEIGHT = 4 * 1024 * 1024
_TILE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """A product on a GPU: N, K, how many tiles of 64 rows the weight has, and the multiprocessors for them."""

    n: int
    k: int
    sms: int

    @property
    def tiles(self) -> int:
        """Return the tiles of the weight's rows."""
        return -(-self.n // _TILE)

    def fills_waves(self, numerator: int, denominator: int = 1) -> bool:
        """Tell whether the tiles fill the multiprocessors at least so many times."""
        return self.tiles * denominator >= self.sms * numerator


def is_fused(m: int, n: int, k: int, *, dtype: str, capability: tuple[int, int], multiprocessors: int) -> bool:
    """Tell whether a product of `m` input rows runs fused; `dtype` is that of the input, as torch names it."""
    if m > _MOST_ROWS:
        return False
    if m <= _ALWAYS_FUSED_ROWS:
        return True
    major, minor = capability
    if dtype == "float32" or capability < (7, 5) or (major == 7 and (minor < 5 or dtype != "float16")):
        return m <= _SIMT_ROWS
    if capability == (8, 7) or major == 11:
        return False
    product = _Product(n=n, k=k, sms=multiprocessors)
    if major == 10:
        return m <= _find_limit_blackwell(product)
    if n * k < _SMALL_WEIGHT:
        return m <= _find_limit_small(product, capability, m)
    if m > 512:
        return False
    if m <= _SIMT_ROWS:
        return not _is_unfused_simt(m, product, capability)
    rules = {(7, 5): _find_limit_sm75, (8, 0): _find_limit_sm80, (8, 6): _find_limit_sm86, (12, 0): _find_limit_sm120}
    if major == 9:
        return m <= _find_limit_sm90(product)
    if capability == (12, 1) and product.fills_waves(1):
        return m <= 256
    return m <= rules.get(capability, _find_limit_other)(product)


def _find_limit_blackwell(p: _Product) -> int:
    """Return the most rows on compute capability 10."""
    if p.fills_waves(3):
        return 32
    return 8 if p.fills_waves(1) and p.k < p.n else 0


def _find_limit_small(p: _Product, capability: tuple[int, int], m: int) -> int:
    """Return the most rows for a weight of less than 4 Mi elements."""
    major = capability[0]
    is_sm75, is_sm80, is_hbm = capability == (7, 5), capability == (8, 0), capability == (8, 0) or major == 9
    if p.k * 2 < p.n:
        return _find_limit_short(p, is_sm75=is_sm75, is_sm80=is_sm80, is_hbm=is_hbm)
    is_quarter = p.tiles * 4 <= p.sms
    if is_sm80 and is_quarter:
        if p.k < p.n:
            return 384
        return 32 if p.tiles * 8 <= p.sms else 128
    if is_sm75 and not p.fills_waves(1) and m > 8:
        return 64
    if is_quarter:
        return 32 if p.k < p.n or is_hbm else 23
    return 16 if p.tiles * 2 <= p.sms else 0


def _find_limit_short(p: _Product, *, is_sm75: bool, is_sm80: bool, is_hbm: bool) -> int:
    """Return the most rows for a small weight with less than half as many columns as rows."""
    if is_hbm:
        is_low = p.tiles * 3 < p.sms
        return (1536 if is_low else 512) if is_sm80 else (512 if is_low else 320)
    if is_sm75:
        if p.fills_waves(3) or p.k < 704:
            return 320
        return 64 if p.k >= 1024 else 96
    return 192 if not p.fills_waves(1) and p.tiles * p.k > p.sms * 320 else 320


def _is_unfused_simt(m: int, p: _Product, capability: tuple[int, int]) -> bool:
    """Tell whether 5 to 7 rows are not fused: 6 or 7 on HBM, for some shapes that fill part of a wave."""
    is_sm80, is_sm90 = capability == (8, 0), capability[0] == 9
    if not (is_sm80 or is_sm90) or m < 6 or p.tiles < (36 if is_sm90 else 48):
        return False
    if p.k > p.n:
        return not p.fills_waves(3, 4)
    return p.k == p.n and not p.fills_waves(3, 5 if is_sm80 else 4) and (is_sm80 or p.fills_waves(3, 5))


def _find_limit_sm75(p: _Product) -> int:
    """Return the most rows on compute capability 7.5."""
    if p.fills_waves(3):
        return 128 if p.k < p.n else 64
    return 64 if p.tiles >= p.sms // 2 else 32


def _find_limit_sm80(p: _Product) -> int:
    """Return the most rows on compute capability 8.0."""
    if p.fills_waves(3):
        return 128
    if p.fills_waves(1):
        return 64 if p.k < p.n else 32
    if p.k >= p.n * 3 and p.tiles * 4 > p.sms:
        return 0
    if p.k == p.n and p.tiles >= 48 and not p.fills_waves(3, 5):
        return 0
    if p.tiles * 2 < p.sms:
        if p.k <= p.n:
            return 128
        if p.fills_waves(1, 3):
            return 0
    return 128 if p.tiles >= p.sms // 2 and p.k < p.n else 16


def _find_limit_sm86(p: _Product) -> int:
    """Return the most rows on compute capability 8.6."""
    if p.fills_waves(1):
        return 128
    return 64 if p.tiles >= p.sms // 2 else 16


def _find_limit_sm90(p: _Product) -> int:
    """Return the most rows on compute capability 9."""
    for waves, most in ((3, 64), (2, 48), (1, 32)):
        if p.fills_waves(waves):
            return most
    if p.tiles >= p.sms // 2:
        return 0 if p.k >= p.n and not p.fills_waves(3, 4) else 16
    return 0


def _find_limit_sm120(p: _Product) -> int:
    """Return the most rows on compute capability 12.0."""
    if p.fills_waves(3):
        return 256
    if p.fills_waves(2):
        return 128
    if p.fills_waves(4, 5):
        return 96 if p.k >= p.n else 64
    if p.tiles >= p.sms // 2:
        return 64 if p.k * 2 >= p.n and p.tiles >= 128 else 8
    return 16 if p.k > p.n * 2 and p.tiles > 64 else 8


def _find_limit_other(p: _Product) -> int:
    """Return the most rows on compute capability 8.9, and on what is not known."""
    is_tall = p.k > p.n * 2
    if p.fills_waves(3):
        return 256
    if p.fills_waves(2):
        return 128
    if p.fills_waves(4, 5):
        if is_tall or p.tiles >= 200 or (p.k >= p.n and p.sms >= 60):
            return 128
        return 32 if p.k >= p.n else 64
    if p.tiles >= p.sms // 2:
        if is_tall:
            return 64
        return 8 if p.tiles >= 64 else 32
    if p.k > p.n and p.tiles <= 48:
        return 12 if p.k >= p.n * 3 else 10
    return 16 if is_tall or p.tiles < 48 else 8
