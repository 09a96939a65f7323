"""Your own data: a folder of images, a folder of masks, matched by stem."""

import hashlib
import operator
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pna.bands import Band
from pna.data import polygons
from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError, DataWarning
from pna.data.pairs import IMAGE_SUFFIXES, Pair, composed, match_pairs, read_list
from pna.data.reading import read_color_mask, read_index_mask
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX, Color, LabelSpace, read_color

MaskKind = Literal["index", "color", "polygons"]
"""What masks of a folder hold."""


class Folder(SegmentationDataset):
    """Images in `images/`, masks in `masks/`, the same stem for both.

    Args:
        root: The folder that holds `images` and `masks`.
        split: `train` or `val` by the hash of the stem; None takes every pair.
        labels: The label space.
        split_list: A text file with one stem a line; takes exactly those, so `split` must be None.
        ratio: Share of the pairs in `val`, 0..1, hit on average.
        masks: Whether mask pixels are class "index"es or the exact "color"s of `labels`, or masks
            are "polygons" in files of GeoJSON or GeoPackage.
        ignore: Ignored pixels in the masks, besides 255 or `IGNORE_COLOR`: a value for masks of
            indices, even that of a class; a color that no class has for masks of colors.
        class_property: The property of a polygon that holds its class; see `read_polygon_mask`.
        bands: The channels of images that rasterio reads, where they are not red, green and blue.

    Raises:
        DataError: If a folder or a partner is missing, the split is empty, or options clash.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_folder
        >>> from pna.labels import generic
        >>> folder = Folder(write_folder(mkdtemp(), generic(3)), labels=generic(3), ignore=2)
        >>> len(folder), sorted({int(v) for sample in folder for v in sample.labels.unique()})
        (6, [0, 1, 255])
    """

    splits: ClassVar = ("train", "val")

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val"] | None = None,
        *,
        labels: LabelSpace,
        split_list: str | Path | None = None,
        ratio: float = 0.2,
        masks: MaskKind = "index",
        ignore: int | Color | str | None = None,
        class_property: str | None = None,
        bands: Sequence[Band] | None = None,
    ) -> None:
        if split is not None:
            self.check_split(split)
        if split is not None and split_list is not None:
            raise DataError(
                f"split {split!r} and split_list {split_list} both choose the pairs: give one"
            )
        if masks not in get_args(MaskKind):
            raise DataError(f"masks must be {' or '.join(get_args(MaskKind))}, got {masks!r}")
        if class_property is not None and masks != "polygons":
            raise DataError(
                f"class_property is for masks='polygons', got {class_property!r} for {masks!r}"
            )
        self.masks = masks
        self.class_property = class_property
        self.ignored_value, self.ignored_color = _read_ignored(ignore, masks, labels)
        # Options are checked first: matching reads two whole folders.
        stems = None if split_list is None else read_list(Path(split_list))
        suffixes = polygons.SUFFIXES if masks == "polygons" else IMAGE_SUFFIXES
        pairs = match_pairs(
            Path(root) / "images", Path(root) / "masks", stems, mask_suffixes=suffixes
        )
        if split is not None:
            pairs = _part(pairs, split, ratio, root)
        lossy = [pair.mask for pair in pairs if pair.mask.suffix.lower() in (".jpg", ".jpeg")]
        if lossy:
            # Values near an edge may turn into those of other classes, which no check can see.
            warnings.warn(
                f"{len(lossy)} masks are JPEG files, such as {lossy[0]}: their compression changes "
                "values; save masks without loss, as PNG",
                DataWarning,
                stacklevel=2,
            )
        super().__init__(pairs, labels)
        self.bands = None if bands is None else tuple(bands)

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the mask of a pair as class indices (H, W)."""
        if self.masks == "color":
            return read_color_mask(pair.mask, self.labels, ignore=self.ignored_color)
        if self.masks == "polygons":
            return polygons.read_polygon_mask(
                pair.mask, pair.image, self.labels, name=self.class_property
            )
        values = read_index_mask(pair.mask)
        if self.ignored_value is None:
            return values
        # Before the check of the classes, so the value may lie outside of them, or in a wider type.
        return np.where(values == self.ignored_value, IGNORE_INDEX, values)


def is_validation(stem: str, ratio: float) -> bool:
    """Return whether a stem belongs to `val`, by the hash of the stem alone.

    Adding or removing images never moves another one, and a larger ratio only adds to `val`.

    Example:
        >>> [is_validation(stem, 0.5) for stem in ("10001", "10002", "10003")]
        [False, True, False]
    """
    # Composed, so that a copy on macOS, which decomposes names, is divided alike.
    digest = hashlib.sha256(composed(stem).encode()).digest()
    # Eight bytes of the hash are a number that is uniform in 0..2^64.
    return int.from_bytes(digest[:8], "big") < ratio * 2**64


def _part(pairs: list[Pair], split: str, ratio: float, root: str | Path) -> list[Pair]:
    if not 0 <= ratio <= 1:
        raise DataError(f"ratio is the share of the pairs in 'val', 0..1, got {ratio}")
    chosen = [pair for pair in pairs if is_validation(pair.name, ratio) == (split == "val")]
    if not chosen:
        raise DataError(
            f"split {split!r} of {root} is empty: none of {len(pairs)} pairs fell into it at ratio "
            f"{ratio}; give a split_list, or another ratio"
        )
    return chosen


def _read_ignored(
    ignore: int | Color | str | None, masks: str, labels: LabelSpace
) -> tuple[int | None, Color | None]:
    """Return the ignored value of masks of indices, or the ignored color of masks of colors."""
    if ignore is None:
        return None, None
    if masks == "polygons":
        raise DataError(
            f"ignore is for masks of pixels, got {ignore!r}; polygons of the class 255 are ignored"
        )
    if masks == "index":
        try:
            return operator.index(ignore), None  # type: ignore[arg-type]
        except TypeError:
            raise DataError(
                f"ignore is a whole number for masks of indices, got {ignore!r}; a color goes with "
                "masks='color'"
            ) from None
    try:
        color = read_color(ignore)
    except PnaError as error:
        raise DataError(f"ignore for masks of colors: {error}") from error
    if color in labels.colors:
        raise DataError(
            f"ignore: color {color} is that of class {labels.classes[labels.colors.index(color)]!r}"
            f" of label space {labels.name!r}; leave the class out, or ignore another color"
        )
    return None, color
