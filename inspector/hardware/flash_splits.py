"""In how many parts flash attention cuts the keys where few rows and heads leave a GPU idle.

Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, `num_splits_heuristic` and
`set_params_splitkv`; the flash-attn package has the same.
"""

from __future__ import annotations

from inspector.hardware.platform import Platform

__all__ = ["count_flash_splits"]


def count_flash_splits(platform: Platform, heads: int, rows: int, keys: int, size: int) -> int:
    """Return in how many parts flash attention cuts the keys so that its blocks fill the GPU: two a multiprocessor."""
    blocks = heads * -(-rows // 64)
    places = 2 * platform.multiprocessors
    parts = -(-keys // (256 if size <= 64 else 128 if size <= 128 else 64))
    if blocks >= 0.8 * places:
        return 1
    efficiencies: dict[int, float] = {}
    for splits in range(1, min(128, places, parts) + 1):
        if splits == 1 or -(-parts // splits) != -(-parts // (splits - 1)):
            waves = blocks * splits / places
            efficiencies[splits] = waves / -(-blocks * splits // places)
    best = max(efficiencies.values())
    return next(splits for splits, efficiency in efficiencies.items() if efficiency >= 0.85 * best)
