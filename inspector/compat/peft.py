"""Private names of PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspector.compat.names import private

if TYPE_CHECKING:
    from peft.tuners._buffer_dict import BufferDict
else:
    BufferDict = private(
        "peft.tuners._buffer_dict.BufferDict",
        purpose="counting an adapter",
        instead="the container that VeRA, VB-LoRA and others keep shared tensors in as buffers",
    )

__all__ = ["BufferDict"]
