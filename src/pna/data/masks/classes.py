"""The classes of a mask by name, as people write them."""

from collections.abc import Sequence

from pna.data.masks.forms import MaskFile
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX, read_color


def find_classes(mask_file: MaskFile, names: Sequence[str]) -> frozenset[int]:
    """Find classes in a mask.

    Args:
        mask_file: The mask.
        names: Names of classes, label numbers as the file has them, or colors such as "#ff8000".

    Returns:
        Their labels in `mask_file.array`. Label numbers and colors that the mask does not hold are
        left out: another one of a folder may.

    Raises:
        PnaError: If the mask has no classes, or none of a name.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from pna.labels import VOC
        >>> from pna.data.masks.npy import ArrayForm
        >>> form = ArrayForm(".npy", np.dtype(np.uint8))
        >>> mask = MaskFile(Path("a.npy"), np.zeros((2, 3), np.uint8), "labels", form, VOC)
        >>> sorted(find_classes(mask, ["cat", "12"]))
        [8, 12]
    """
    if mask_file.kind == "binary" or (mask_file.kind == "soft" and mask_file.array.ndim == 2):
        raise PnaError(
            f"mask {mask_file.path} is foreground and background: expected labels, colors or "
            "probabilities to choose classes from; leave the classes out"
        )
    found = (_find_class(mask_file, name.strip()) for name in names)
    return frozenset(label for label in found if label is not None)


def _find_class(mask_file: MaskFile, name: str) -> int | None:
    space = mask_file.labels
    if space is not None and name in space.classes:
        return space.classes.index(name)
    # Colors that were found in the file have no numbers: another file has others.
    has_numbers = mask_file.kind != "colors" or mask_file.guess is None
    if name.isdecimal() and has_numbers:
        return _find_number(mask_file, int(name))
    if mask_file.kind == "colors" and space is not None and name.startswith("#"):
        color = read_color(name)
        return space.colors.index(color) if color in space.colors else None
    known = "label numbers" if space is None else ", ".join(space.classes[:20])
    more = " ..." if space is not None and space.num_classes > 20 else ""
    raise PnaError(f"no class {name!r} in the mask {mask_file.path}: expected {known}{more}")


def _find_number(mask_file: MaskFile, number: int) -> int | None:
    levels = mask_file.form.levels
    if levels is None:
        return number if number < IGNORE_INDEX else None
    labels = [label for label, level in enumerate(levels) if level == number]
    return labels[0] if labels else None
