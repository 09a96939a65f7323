"""Settings as YAML files: read by path or bundled name, changed by `--set`, checked."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from pna.errors import MissingFileError, PnaError

Settings = TypeVar("Settings", bound=BaseModel)
Folders = Sequence[Traversable]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Setting(NamedTuple):
    """One setting, for documentation.

    Attributes:
        name: Dotted name, as `--set` takes it.
        default: In YAML; empty where a value must be given.
        meaning: One or two sentences.
    """

    name: str
    default: str
    meaning: str


def known_keys(kind: type[Any]) -> BeforeValidator:
    """Annotate a dataclass in a section: refuse unknown keys there too.

    Args:
        kind: The dataclass. Pydantic builds it from a mapping, and ignores keys that it lacks.
    """
    known = [field.name for field in fields(kind)]

    def check(value: Any) -> Any:
        for key in value if isinstance(value, Mapping) else ():
            if key not in known:
                raise PydanticCustomError("unknown_key", "", {"key": str(key), "known": known})
        return value

    return BeforeValidator(check)


def bundled_names(folders: Folders) -> list[str]:
    """List the names of the YAML files in some folders."""
    files = (file.name for folder in folders for file in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def read_head(name: str, folders: Folders, *, kind: str) -> dict[str, str]:
    """Read the comment at the head of a bundled file, `# key: text` a line.

    Raises:
        MissingFileError: There is no such bundled file.
    """
    file = _find_bundled(name, folders)
    if file is None:
        known = ", ".join(bundled_names(folders))
        raise MissingFileError(f"{name}: expected one of {known}; there is no such {kind}")
    text = file.read_text(encoding="utf-8")
    return dict(re.findall(r"^# (\w+):\s+(.+)$", text, re.MULTILINE))


def read_tree(source: str | Path, folders: Folders, *, kind: str) -> tuple[str, dict[str, Any]]:
    """Read a file of settings. No code in it is run.

    Args:
        source: Path of a YAML file, or the name of a bundled one.
        folders: The folders of the bundled ones.
        kind: The word for such a file in messages.

    Returns:
        Its name for messages, and its sections.

    Raises:
        MissingFileError: There is no such file and no such bundled one.
        PnaError: The file is no mapping.
    """
    file: Path | Traversable | None = Path(source)
    label = str(source)
    if not Path(source).is_file():
        file = _find_bundled(label, folders)
        label = f"{label}.yaml"
    if file is None:
        raise MissingFileError(
            f"{source}: expected a {kind} file or one of {', '.join(bundled_names(folders))}; "
            "there is neither"
        )
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PnaError(f"{label}: expected text in UTF-8, got {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise PnaError(f"{label}: expected YAML, got {error}: correct the file") from error
    if not isinstance(tree, dict):
        raise PnaError(f"{label}: expected a mapping of sections, got {type(tree).__name__}")
    return label, tree


def _find_bundled(name: str, folders: Folders) -> Traversable | None:
    files = (folder / f"{name}.yaml" for folder in folders)
    return next((file for file in files if "/" not in name and file.is_file()), None)


def parse_tree(
    settings: type[Settings],
    tree: dict[str, Any],
    *,
    label: str,
    overrides: Sequence[str] = (),
    context: Mapping[str, Any] | None = None,
) -> Settings:
    """Check a tree of settings.

    Args:
        settings: The outermost section.
        tree: Sections and settings. `overrides` change it in place.
        label: Begins every line of an error.
        overrides: `section.key=value` strings, the value in YAML; later ones win.
        context: Passed to the sections' validators.

    Raises:
        PnaError: A key is unknown or a value doesn't fit; every problem has a line.
    """
    for override in overrides:
        _override(tree, override)
    label = f"{label} with --set" if overrides else label
    try:
        return settings.model_validate(tree, context=context)
    except ValidationError as error:
        lines = [f"{label}: {_explain(problem, settings)}" for problem in error.errors()]
        # Each once: of a choice between types every type has its own problem.
        raise PnaError("\n".join(dict.fromkeys(lines))) from None


def _override(tree: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place."""
    dotted, separator, text = override.partition("=")
    if not separator or not dotted:
        raise PnaError(f"--set {override}: expected section.key=value, e.g. run.batch_size=4")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise PnaError(f"--set {override}: expected a YAML value, got {text!r}") from error
    *parents, last = dotted.split(".")
    for parent in parents:
        if tree.get(parent) is None:  # left out, or switched off: set one of its keys all the same
            tree[parent] = {}
        if not isinstance(tree[parent], dict):
            raise PnaError(f"--set {override}: {parent} is no section")
        tree = tree[parent]
    tree[last] = value


def _explain(problem: Any, settings: type[BaseModel]) -> str:
    """Return a line for one of pydantic's problems: location, expected value, actual one."""
    # Of a choice between types pydantic adds the type to the location: keep keys and numbers only.
    section: Any = settings
    location: list[str] = []
    for part in problem["loc"]:
        known = _fields_of(section)
        if isinstance(part, int):
            section = next(iter(get_args(section)), None)
        elif part in known:
            section = known[part]
        elif part is not problem["loc"][-1] or problem["type"] != "extra_forbidden":
            continue
        location.append(str(part))
    where = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}{_suggest(location[-1], list(_fields_of(section)))}"
    if problem["type"] == "unknown_key":
        key, known = problem["ctx"]["key"], problem["ctx"]["known"]
        return f"unknown key {where}.{key}{_suggest(key, known)}"
    if problem["type"] == "missing":
        return f"{where}: expected a value, got none: add it"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message}, got {problem['input']!r}"


def _fields_of(kind: Any) -> dict[str, Any]:
    """Return types by key of a section, a dataclass, or a choice with one of them; else empty."""
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return {name: field.annotation for name, field in each.model_fields.items()}
        if isinstance(each, type) and is_dataclass(each):
            return {field.name: field.type for field in fields(each)}
    return {}


def _suggest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=2)
    if close:
        return f": did you mean {' or '.join(close)}?"
    return f": known here are {', '.join(known)}"


def document(section: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yield all settings with default and meaning, from the code's own documentation.

    Sections document a field by the docstring under it, dataclasses by the `Attributes:` of theirs.

    Args:
        section: The outermost section, such as `pna.train.Recipe`.
        prefix: Put before each name.
    """
    for name, field in section.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((kind for kind in kinds if isinstance(kind, type)), None)
        if isinstance(field.default, str):  # a word or a section, such as `normalize`
            inner = None
        if inner is not None and issubclass(inner, BaseModel):
            yield from document(inner, f"{prefix}{name}.")
        elif inner is not None and is_dataclass(inner):
            meanings = _attributes(inner)
            for each in fields(inner):
                default = "" if each.default is MISSING else _to_yaml(each.default)
                yield Setting(f"{prefix}{name}.{each.name}", default, meanings[each.name])
        else:
            value = field.get_default(call_default_factory=True)
            default = "" if field.is_required() else _to_yaml(value)
            yield Setting(f"{prefix}{name}", default, field.description or "")


def _attributes(kind: type[Any]) -> dict[str, str]:
    """Read descriptions by name from the `Attributes:` of a docstring in Google's style."""
    text = (kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    items = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in items}


def _to_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True)
    return text.removesuffix("...\n").strip()  # YAML ends a bare scalar by "..."
