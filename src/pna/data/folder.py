"""Your own data: a folder of pictures, a folder of masks, matched by stem."""

import hashlib
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError
from pna.data.pairs import Pair, match_pairs, read_list
from pna.data.reading import read_color_mask, read_index_mask
from pna.labels import LabelSpace


class Folder(SegmentationDataset):
    """Pictures in `images/`, masks in `masks/`, the same stem for both.

    Args:
        root: The folder that holds `images` and `masks`.
        split: `train` or `val` by the hash of the stem; None takes every pair.
        labels: What the labels mean.
        split_list: A text file with one stem a line; takes exactly those, so `split` must be None.
        ratio: Share of the pairs in `val`, 0..1, hit on average.
        masks: Whether mask pixels are class indices or the exact colours of `labels`.

    Raises:
        DataError: If a folder or a partner is missing, the split is empty, or options clash.
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
        masks: Literal["index", "color"] = "index",
    ) -> None:
        if split is not None:
            self.check_split(split)
        if split is not None and split_list is not None:
            raise DataError(
                f"split {split!r} and split_list {split_list} both choose the pairs: give one"
            )
        if masks not in ("index", "color"):
            raise DataError(f"masks must be 'index' or 'color', got {masks!r}")
        self.masks = masks
        stems = None if split_list is None else read_list(Path(split_list))
        pairs = match_pairs(Path(root) / "images", Path(root) / "masks", stems)
        if split is not None:
            pairs = _part(pairs, split, ratio, root)
        super().__init__(pairs, labels)

    def read_labels(self, pair: Pair) -> NDArray[np.integer]:
        """Reads the mask of a pair as class indices (H, W)."""
        if self.masks == "color":
            return read_color_mask(pair.mask, self.labels)
        return read_index_mask(pair.mask)

    def conversion(self) -> str:
        """Names the storage too: the same file means another thing as colours."""
        return f"{super().conversion()} {self.masks}"


def is_validation(stem: str, ratio: float) -> bool:
    """Whether a stem belongs to `val`: a property of the stem alone.

    So adding or removing pictures never moves another one, and a larger ratio only adds to `val`.
    """
    digest = hashlib.sha256(stem.encode()).digest()
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
