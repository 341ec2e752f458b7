"""Which 4-bit products are fused, held against answers of bitsandbytes itself.

RECORDED holds, for a GPU and each weight of SHAPES, the most rows of a float16 input for which
`_gemm_4bit_use_custom_cuda` of bitsandbytes 0.50.2 says yes. When it was recorded, all answers for 36 × 36 shapes, 30
numbers of rows, three dtypes and 14 GPUs were equal (1,632,960 answers).
"""

from __future__ import annotations

import pytest

from inspector.quantization.bitsandbytes.products import is_fused

# (rows, columns) of a weight.
SHAPES = (
    (256, 2048), (2048, 256), (2048, 2048), (4096, 4096), (1024, 4096), (4096, 14336), (14336, 4096), (27648, 5120),
)  # fmt: skip
RECORDED = [
    ((7, 0), 80, (7, 7, 7, 7, 7, 7, 7, 7)),
    ((7, 5), 40, (64, 320, 64, 64, 32, 64, 128, 128)),
    ((8, 0), 108, (32, 1536, 128, 5, 16, 5, 64, 128)),
    ((8, 6), 84, (23, 320, 16, 64, 16, 64, 128, 128)),
    ((8, 9), 142, (23, 320, 16, 8, 12, 16, 128, 256)),
    ((8, 9), 58, (23, 320, 32, 32, 12, 128, 256, 256)),
    ((9, 0), 132, (32, 512, 7, 7, 7, 5, 32, 64)),
    ((10, 0), 148, (4, 4, 4, 4, 4, 4, 8, 8)),
    ((11, 0), 20, (4, 4, 4, 4, 4, 4, 4, 4)),
    ((12, 0), 170, (23, 320, 8, 8, 8, 8, 64, 128)),
    ((12, 1), 48, (23, 320, 32, 256, 12, 256, 256, 256)),
]


@pytest.mark.parametrize(("capability", "multiprocessors", "most"), RECORDED)
def test_the_largest_fused_input_of_a_4_bit_product_is_that_of_the_library(
    capability: tuple[int, int], multiprocessors: int, most: tuple[int, ...]
) -> None:
    for (rows, columns), expected in zip(SHAPES, most, strict=True):
        fused = [
            m
            for m in range(1, 2048)
            if is_fused(m, rows, columns, dtype="float16", capability=capability, multiprocessors=multiprocessors)
        ]
        assert fused[-1] == expected, (rows, columns)


def test_a_4_bit_product_in_float32_is_fused_up_to_seven_rows_and_on_a_t4_in_float16_alone() -> None:
    def most(dtype: str) -> int:
        answers = (is_fused(m, 4096, 4096, dtype=dtype, capability=(7, 5), multiprocessors=40) for m in range(1, 2048))
        return sum(answers)

    assert most("float32") == most("bfloat16") == 7
    assert most("float16") == 64
