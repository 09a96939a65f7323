"""Recipes as YAML files: found by name or path, changed by `--set`, checked, saved resolved."""

import difflib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pna.train.recipe import Recipe


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("pna.train") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def recipe_head(name: str) -> dict[str, str]:
    """What the comment at the head of a bundled recipe says.

    Returns:
        Text by key: "paper" (table and row, or "none"), "command", "hours" and "score".

    Raises:
        FileNotFoundError: There is no such bundled recipe.
    """
    if name not in bundled_recipes():
        raise FileNotFoundError(
            f"{name}: expected one of {', '.join(bundled_recipes())}; there is no such recipe"
        )
    text = _bundled(name).read_text(encoding="utf-8")
    return dict(re.findall(r"^# (\w+):\s+(.+)$", text, re.MULTILINE))


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: Path of a YAML file, or the name of a bundled recipe.
        overrides: `section.key=value` strings, the value in YAML; later ones win.

    Raises:
        FileNotFoundError: There is no such file and no such bundled recipe.
        ValueError: The file is no mapping, a key is unknown or a value doesn't fit.
    """
    label, text = _read(source)
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{label}: expected YAML, got {error}: correct the file") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{label}: expected a mapping of sections, got {type(tree).__name__}")
    return parse_recipe(tree, label=label, overrides=overrides)


def parse_recipe(tree: dict[str, Any], *, label: str, overrides: Sequence[str] = ()) -> Recipe:
    """Check a tree of settings, `overrides` applied; errors begin with `label`.

    Raises:
        ValueError: A key is unknown or a value doesn't fit; every problem has a line.
    """
    for override in overrides:
        _override(tree, override)
    label = f"{label} with --set" if overrides else label
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [f"{label}: {_explain(problem)}" for problem in error.errors()]
        raise ValueError("\n".join(lines)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe, every default spelled out, as YAML."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def _read(source: str | Path) -> tuple[str, str]:
    """Name for messages and text of a recipe."""
    path = Path(source)
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected text in UTF-8, got {error}") from error
    names = bundled_recipes()
    if str(source) in names:
        bundled = _bundled(str(source))
        return bundled.name, bundled.read_text(encoding="utf-8")
    raise FileNotFoundError(
        f"{source}: expected a recipe file or one of {', '.join(names)}; there is neither"
    )


def _bundled(name: str) -> Traversable:
    return resources.files("pna.train") / "recipes" / f"{name}.yaml"


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise ValueError(f"--set {override}: expected section.key=value, e.g. run.batch_size=4")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"--set {override}: expected a YAML value, got {text!r}") from error
    *parents, last = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ValueError(f"--set {override}: {parent} is no section")
        tree = child
    tree[last] = value


def _explain(problem: Any) -> str:
    """One line for one of pydantic's problems: where, what was expected, what came."""
    place = [str(part) for part in problem["loc"]]
    where = ".".join(place)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}{_suggest(place[-1], _keys_of(place[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: expected a value, got none: add it"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {message}, got {problem['input']!r}"


def _keys_of(place: Iterable[str]) -> list[str]:
    """The known keys of a section."""
    section: type[BaseModel] = Recipe
    for part in place:
        annotation: Any = section.model_fields[part].annotation
        if isinstance(annotation, UnionType):  # a section that may be left out
            annotation = next(kind for kind in get_args(annotation) if kind is not NoneType)
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)


def _suggest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=2)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f": known here are {', '.join(known)}"
