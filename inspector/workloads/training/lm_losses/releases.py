"""After which releases of packages losses and kernels are written, and what to say where another one is installed.

Nothing is imported: installed packages are looked up by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata

from inspector.records.notice import Notice
from inspector.records.recipe import Recipe
from inspector.records.steps.losses import LossName

__all__ = ["find_release_notices"]

_Written = tuple[str, str, tuple[str, ...]]
_LIGER: _Written = ("liger-kernel", "Liger 0.8.5", ("0.8",))
# What a loss is written after: a package, its release, and those that are the same.
_LOSSES: Mapping[str, _Written] = {
    "chunked": ("trl", "TRL 1.14", tuple(f"1.{minor}" for minor in range(7, 15))),
    "fused": ("trl", "TRL 1.16", ("1.15", "1.16")),
    "liger": _LIGER,
    "cce": ("cut-cross-entropy", "cut-cross-entropy 25.1.1", ("25.1",)),
}
_STAGE: _Written = ("trl", "TRL 1.14", ("1.13", "1.14"))


def find_release_notices(recipe: Recipe) -> Iterator[Notice]:
    """Yield which release the loss and the kernels of a recipe are those of, where another one is installed."""
    written = _LOSSES.get(str(recipe.loss))
    if recipe.stage is not None and recipe.stage not in ("cpo", "orpo", "reward") and recipe.loss == LossName.STOCK:
        written = _STAGE
    kernels = _LIGER if recipe.liger else None
    for package, release, same in dict.fromkeys(item for item in (written, kernels) if item is not None):
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if ".".join(installed.split(".")[:2]) not in same:
            message = (
                f"The step is traced as {release} computes it; {package} {installed} is installed here, and its own "
                "may take something else."
            )
            yield Notice(code="other-release", message=message)
