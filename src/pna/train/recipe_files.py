"""Recipes as YAML files: found by name or path, changed by `--set`, checked, saved resolved."""

from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from pna.train.recipe import Recipe
from pna.train.section_files import bundled_names, parse_tree, read_head, read_tree


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return bundled_names(_folder())


def recipe_head(name: str) -> dict[str, str]:
    """What the comment at the head of a bundled recipe says.

    Returns:
        Text by key: "paper" (table and row, or "none"), "command", "hours" and "score".

    Raises:
        FileNotFoundError: There is no such bundled recipe.
    """
    return read_head(_folder(), name, kind="recipe")


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: Path of a YAML file, or the name of a bundled recipe.
        overrides: `section.key=value` strings, the value in YAML; later ones win.

    Raises:
        FileNotFoundError: There is no such file and no such bundled recipe.
        ValueError: The file is no mapping, a key is unknown or a value doesn't fit.
    """
    label, tree = read_tree(source, _folder(), kind="recipe")
    return parse_recipe(tree, label=label, overrides=overrides)


def parse_recipe(tree: dict[str, Any], *, label: str, overrides: Sequence[str] = ()) -> Recipe:
    """Check a tree of settings, `overrides` applied; errors begin with `label`.

    Raises:
        ValueError: A key is unknown or a value doesn't fit; every problem has a line.
    """
    return parse_tree(Recipe, tree, label=label, overrides=overrides)


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe, every default spelled out, as YAML."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def _folder() -> Traversable:
    return resources.files("pna.train") / "recipes"
