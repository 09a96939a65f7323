"""Training: recipes, losses, and a loop that resumes to the bit.

The losses need torch alone; everything else needs `pip install 'pna[train]'`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.train.errors import TrainingError
    from pna.train.losses import LossConfig, LossOutput, segmentation_loss
    from pna.train.recipe import (
        Recipe,
        all_settings,
        bundled_recipes,
        dump_recipe,
        load_recipe,
        parse_recipe,
        recipe_head,
    )
    from pna.train.run import train

_HOMES = {
    "LossConfig": "losses",
    "LossOutput": "losses",
    "Recipe": "recipe",
    "TrainingError": "errors",
    "all_settings": "recipe",
    "bundled_recipes": "recipe",
    "dump_recipe": "recipe",
    "load_recipe": "recipe",
    "parse_recipe": "recipe",
    "recipe_head": "recipe",
    "segmentation_loss": "losses",
    "train": "run",
}
EXTRA = {"accelerate", "matplotlib", "pydantic", "pydantic_core", "rich", "yaml"}
"""Packages of `pna[train]`, as they are imported."""

__all__ = [
    "LossConfig",
    "LossOutput",
    "Recipe",
    "TrainingError",
    "all_settings",
    "bundled_recipes",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_head",
    "segmentation_loss",
    "train",
]


# Names are imported when they are first read (PEP 562): the losses need torch alone.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pna.train' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"pna.train.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA:
            raise
        raise PnaError(
            f"pna.train.{name} needs {missing}, which is not installed: pip install 'pna[train]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
