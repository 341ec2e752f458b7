"""What files say of DeepSpeed's ZeRO: the stage, its configuration, and what waits in host memory.

Where DeepSpeed is installed its ranks are traced, what is offloaded with them; else the figures are of one card alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inspector.compat.deepspeed import has_deepspeed
from inspector.errors import UsageError
from inspector.records.training_file import Origin
from inspector.training_files.fields import LESS, Settings

__all__ = ["list_offloaded", "take_stage"]

_PARTS = ("offload_optimizer", "offload_param")
_OFFLOADED = "offloaded to the host"


def take_stage(settings: Settings, stage: object, zero: Mapping[str, Any], field: str, prefix: str = "") -> None:
    """Take a stage of ZeRO with its configuration, which a field of a file says; `prefix` leads to it.

    accelerate's leaves everything to DeepSpeed's defaults.
    """
    if stage not in (1, 2, 3, "1", "2", "3"):
        return
    settings.fields["sharding"] = f"zero{stage}"
    settings.fields["sharding_settings"] = {"config": {"zero_optimization": dict(zero)}}
    if has_deepspeed():
        settings.silent.add(field)
    for name in list_offloaded(zero):
        device = zero[name]["device"]
        if device == "nvme":
            raise UsageError(
                f"{prefix}{name} is on nvme, and what waits on a disk is not modelled; let it wait on the cpu, or "
                "drop it."
            )
        if not has_deepspeed():
            settings.miss(f"{prefix}{name}", device, LESS, _OFFLOADED, Origin.FILE)


def list_offloaded(zero: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of a stage that do not stay on the card."""
    parts = {name: zero.get(name) for name in _PARTS}
    return tuple(
        name for name, part in parts.items() if isinstance(part, Mapping) and part.get("device") not in (None, "none")
    )
