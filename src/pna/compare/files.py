"""Comparisons as YAML files, by path or bundled name."""

from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pna.compare.comparison import Comparison
from pna.model.presets import PRESETS
from pna.train.section_files import bundled_names, parse_tree, read_head, read_tree


def bundled_comparisons() -> list[str]:
    """Names of the comparisons that come with the package."""
    return bundled_names(_folder())


def comparison_head(name: str) -> dict[str, str]:
    """What the comment at the head of a bundled comparison says: "shows", "command", "hours".

    Raises:
        FileNotFoundError: There is no such bundled comparison.
    """
    return read_head(_folder(), name, kind="comparison")


def load_comparison(source: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison.

    Args:
        source: Path of a YAML file, or the name of a bundled comparison.
        overrides: `section.key=value` strings, the value in YAML; later ones win.

    Raises:
        FileNotFoundError: There is no such file and no such bundled comparison.
        ValueError: A key or a preset is unknown, or a value doesn't fit.
    """
    label, tree = read_tree(source, _folder(), kind="comparison")
    comparison = parse_tree(Comparison, tree, label=label, overrides=overrides)
    for row in comparison.models:
        if row.cascade is None and row.preset not in PRESETS:
            raise ValueError(
                f"{label}: {row.name}: expected a preset of {', '.join(PRESETS)}; "
                f"got {row.preset!r}"
            )
    return comparison


def _folder() -> Traversable:
    return resources.files("pna.compare") / "comparisons"
