"""Label maps as files: 8-bit PNGs whose values are the classes and whose palette is the colors.

The format of VOC's masks: every viewer shows colors, every program reads class indices.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pna.errors import PnaError
from pna.files import write_atomically
from pna.labels import IGNORE_INDEX, LabelSpace, out_of_range

_BAND = 512  # rows that are counted at once

UInt8Array = npt.NDArray[np.uint8]


def save_labels(labels: UInt8Array, label_space: LabelSpace, path: str | Path) -> None:
    """Write a label map as a palette PNG.

    Args:
        labels: (H, W) uint8, classes of `label_space` or 255 (ignored).
        label_space: Gives the palette.
        path: The file to write; its folder must exist. An existing file is replaced, at once.

    Raises:
        PnaError: `labels` is not such a map.

    Example:
        >>> from tempfile import mkdtemp
        >>> import numpy as np
        >>> from PIL import Image
        >>> from pna.labels import VOC
        >>> file = Path(mkdtemp()) / "cat.png"
        >>> save_labels(np.full((2, 3), 8, np.uint8), VOC, file)
        >>> np.asarray(Image.open(file)).tolist()
        [[8, 8, 8], [8, 8, 8]]
    """
    check_labels(labels, label_space)
    image = Image.fromarray(labels)  # mode L; a palette turns it into mode P
    image.putpalette(label_space.palette())
    write_image(image, path)


def write_image(image: Image.Image, path: str | Path) -> None:
    """Write an image as PNG by `pna.files.write_atomically`."""
    write_atomically(Path(path), lambda beside: image.save(beside, format="PNG"))


def check_labels(labels: UInt8Array, label_space: LabelSpace) -> None:
    """Raise PnaError unless `labels` is an (H, W) uint8 map of classes of `label_space`."""
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise PnaError(
            f"labels must be an (H, W) uint8 map, got shape {labels.shape} of {labels.dtype}"
        )
    wrong = out_of_range(labels, label_space.num_classes)
    if wrong:
        raise PnaError(
            f"labels must lie in [0, {label_space.num_classes}) or be {IGNORE_INDEX} (ignored) in "
            f"the label space {label_space.name}, got {wrong[:8]}"
        )


def count_labels(labels: UInt8Array) -> npt.NDArray[np.int64]:
    """Count each value of a uint8 label map (H, W): (256,)."""
    counts = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
    for top in range(0, len(labels), _BAND):  # bincount needs 8 bytes a pixel
        counts += np.bincount(labels[top : top + _BAND].ravel(), minlength=len(counts))
    return counts


def present_labels(labels: UInt8Array) -> list[int]:
    """Return the values that occur in a uint8 label map, in order; 255 (ignored) among them."""
    counts = count_labels(labels)
    return [int(c) for c in np.flatnonzero(counts)]
