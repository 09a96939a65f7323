"""Label maps as files: 8-bit PNGs whose values are the classes and whose palette is the colours.

The format of VOC's masks: every viewer shows colours, every program reads class indices.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pna.labels import IGNORE_INDEX, LabelSpace, out_of_range

_BAND = 512  # rows that are counted at once

UInt8Array = npt.NDArray[np.uint8]


def save_labels(labels: UInt8Array, label_space: LabelSpace, path: str | Path) -> None:
    """Write a label map as a palette PNG.

    The file is written beside its place and then renamed, so that nobody reads half of it.

    Args:
        labels: (H, W) uint8, classes of `label_space` or 255 (ignored).
        label_space: Gives the palette.
        path: The file to write; its folder must exist. An existing file is replaced.

    Raises:
        ValueError: If `labels` isn't such a map.
    """
    check_labels(labels, label_space)
    path = Path(path)
    image = Image.fromarray(labels)  # mode L; a palette turns it into mode P
    image.putpalette(label_space.palette())
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        image.save(beside, format="PNG")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_labels(labels: UInt8Array, label_space: LabelSpace) -> None:
    """Raise ValueError unless `labels` is an (H, W) uint8 map of classes of `label_space`."""
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(
            f"labels must be an (H, W) uint8 map, got shape {labels.shape} of {labels.dtype}"
        )
    wrong = out_of_range(labels, label_space.num_classes)
    if wrong:
        raise ValueError(
            f"labels must lie in [0, {label_space.num_classes}) or be {IGNORE_INDEX} (ignored) in "
            f"the label space {label_space.name}, got {wrong[:8]}"
        )


def count_labels(labels: UInt8Array) -> npt.NDArray[np.int64]:
    """Count each value of a uint8 label map (H, W): (256,)."""
    counts = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
    for top in range(0, len(labels), _BAND):  # bincount makes eight bytes of each
        counts += np.bincount(labels[top : top + _BAND].ravel(), minlength=len(counts))
    return counts


def present_labels(labels: UInt8Array) -> list[int]:
    """Return the values that occur in a uint8 label map, in order; 255 (ignored) among them."""
    counts = count_labels(labels)
    return [int(c) for c in np.flatnonzero(counts)]
