"""Settings as YAML files: found by path or bundled name, changed by `--set`, checked."""

import difflib
import re
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)


def bundled_names(folder: Traversable) -> list[str]:
    """Names of the YAML files that come with the package in a folder."""
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def read_head(folder: Traversable, name: str, *, kind: str) -> dict[str, str]:
    """What the comment at the head of a bundled file says, by key.

    Raises:
        FileNotFoundError: There is no such bundled file.
    """
    names = bundled_names(folder)
    if name not in names:
        raise FileNotFoundError(
            f"{name}: expected one of {', '.join(names)}; there is no such {kind}"
        )
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^# (\w+):\s+(.+)$", text, re.MULTILINE))


def read_tree(source: str | Path, folder: Traversable, *, kind: str) -> tuple[str, dict[str, Any]]:
    """Read a file of settings.

    Args:
        source: Path of a YAML file, or the name of a bundled one.
        folder: Where the bundled ones are.
        kind: What messages call such a file.

    Returns:
        Its name for messages, and its sections.

    Raises:
        FileNotFoundError: There is no such file and no such bundled one.
        ValueError: The file is no mapping.
    """
    label, text = _read(source, folder, kind)
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{label}: expected YAML, got {error}: correct the file") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{label}: expected a mapping of sections, got {type(tree).__name__}")
    return label, tree


def parse_tree(
    settings: type[Settings], tree: dict[str, Any], *, label: str, overrides: Sequence[str] = ()
) -> Settings:
    """Check a tree of settings, `overrides` applied in place; errors begin with `label`.

    Raises:
        ValueError: A key is unknown or a value doesn't fit; every problem has a line.
    """
    for override in overrides:
        _override(tree, override)
    label = f"{label} with --set" if overrides else label
    try:
        return settings.model_validate(tree)
    except ValidationError as error:
        lines = [f"{label}: {_explain(problem, settings)}" for problem in error.errors()]
        raise ValueError("\n".join(lines)) from None


def _read(source: str | Path, folder: Traversable, kind: str) -> tuple[str, str]:
    """Name for messages and text of a file."""
    path = Path(source)
    if path.is_file():
        try:
            return str(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected text in UTF-8, got {error}") from error
    names = bundled_names(folder)
    if str(source) in names:
        bundled = folder / f"{source}.yaml"
        return bundled.name, bundled.read_text(encoding="utf-8")
    raise FileNotFoundError(
        f"{source}: expected a {kind} file or one of {', '.join(names)}; there is neither"
    )


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


def _explain(problem: Any, settings: type[BaseModel]) -> str:
    """One line for one of pydantic's problems: where, what was expected, what came."""
    place = problem["loc"]
    where = ".".join(map(str, place))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}{_suggest(str(place[-1]), _keys_of(place[:-1], settings))}"
    if problem["type"] == "missing":
        return f"{where}: expected a value, got none: add it"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {problem['input']!r}"


def _keys_of(place: Sequence[int | str], settings: type[BaseModel]) -> list[str]:
    """The known keys of a section; a number in its place is one of a list of sections."""
    section: Any = settings
    for part in place:
        if isinstance(part, str):
            section = section.model_fields[part].annotation
            if isinstance(section, UnionType):  # a section that may be left out
                section = next(kind for kind in get_args(section) if kind is not NoneType)
        else:
            section = get_args(section)[0]
    assert issubclass(section, BaseModel)
    return list(section.model_fields)


def _suggest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=2)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f": known here are {', '.join(known)}"
