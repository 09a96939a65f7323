"""What every data set has in common: samples, and how they are read and checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pna.data.errors import DataError
from pna.data.label_cache import LabelCache
from pna.data.pairs import Pair
from pna.data.picture_cache import PictureCache
from pna.data.reading import checked_labels, read_index_mask, read_picture
from pna.labels import LabelSpace


class Sample(NamedTuple):
    """A picture and its labels.

    Attributes:
        picture: (3, H, W) float32 in [0, 1], red-green-blue.
        labels: (H, W) int64, classes 0..K-1, 255 ignored.
        name: Stem of the files.
        unreadable: Where other samples were to be taken before this one: what is wrong with them.
    """

    picture: Tensor
    labels: Tensor
    name: str
    unreadable: Sequence[str] = ()


class Batch(NamedTuple):
    """Samples of one size, stacked; the fields are those of `Sample`.

    Attributes:
        picture: (B, 3, H, W) float32 in [0, 1].
        labels: (B, H, W) int64.
        name: B stems.
        unreadable: Those of all samples, one after the other.
    """

    picture: Tensor
    labels: Tensor
    name: list[str]
    unreadable: Sequence[str] = ()


class SegmentationDataset(Dataset[Sample]):
    """Pictures with a label for every pixel.

    A data set is one file with one subclass: the constructor finds the pairs, `read_labels` reads a
    mask as the data set stores it. Everything else stands here.

    Args:
        pairs: The pictures and masks, at least one.
        labels: What the labels mean.

    Attributes:
        splits: The parts it comes in.
        counts: Pictures in each part as published, where numbers are published.
    """

    splits: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[Mapping[str, int]] = {}

    def __init__(self, pairs: Sequence[Pair], labels: LabelSpace) -> None:
        self.pairs = list(pairs)
        self.labels = labels
        self._cache: LabelCache | None = None
        self._pictures: PictureCache | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        return self.load(index)

    def load(self, index: int) -> Sample:
        """Reads one sample at its own size, untransformed: what evaluation uses.

        Raises:
            DataError: If a file is damaged, sizes differ, or a label is no class.
        """
        picture, labels = self.read(index)
        return Sample(picture.float() / 255, labels.long(), self.pairs[index].name)

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Reads one sample as stored: picture (3, H, W) uint8 and labels (H, W) uint8.

        Raises:
            DataError: As `load`.
        """
        pair = self.pairs[index]
        picture = self._picture(pair.picture)
        labels = self.label_map(pair)
        check_sizes(pair, picture, labels)
        # Contiguous planes: resizing and batching are several times faster on them.
        planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        return planes, torch.from_numpy(labels)

    def _picture(self, file: Path) -> NDArray[np.uint8]:
        if self._pictures is None:
            return read_picture(file)
        return self._pictures.get(file, lambda: read_picture(file))

    def label_map(self, pair: Pair) -> NDArray[np.uint8]:
        """The labels of a pair (H, W), classes or 255; from the cache, if there is one.

        Raises:
            DataError: If the mask is damaged, or a label is no class.
        """
        if self._cache is None:
            return checked_labels(self.read_labels(pair), pair.mask, self.labels)
        return self._cache.get(
            pair.mask, lambda: checked_labels(self.read_labels(pair), pair.mask, self.labels)
        )

    def read_labels(self, pair: Pair) -> NDArray[np.integer]:
        """Reads the mask of a pair as class indices (H, W); subclasses know other storages."""
        return read_index_mask(pair.mask)

    def conversion(self) -> str:
        """Names what `read_labels` makes of a file, in full: a cache is keyed by it."""
        return f"{type(self).__name__} {self.labels.to_dict()}"

    def cache_labels(self, folder: str | Path) -> None:
        """From now on converts each mask once, and keeps the result in a folder.

        Args:
            folder: Made if missing; any number of data sets and processes may share it.
        """
        self._cache = LabelCache(Path(folder), self.conversion())

    def cache_pictures(self, folder: str | Path, *, gigabytes: float) -> None:
        """From now on decodes each picture once, and keeps it in a folder as long as there is room.

        Args:
            folder: Made if missing; any number of data sets and processes may share it.
            gigabytes: Most that it holds, in 10^9 bytes.

        Raises:
            ValueError: If that is not above 0.
        """
        self._pictures = PictureCache(Path(folder), gigabytes)

    @classmethod
    def check_split(cls, split: str) -> None:
        """Raises a `DataError` that lists the splits, unless `split` is one of them."""
        if split not in cls.splits:
            raise DataError(
                f"{cls.__name__} has no split {split!r}: expected one of {', '.join(cls.splits)}"
            )


def check_sizes(pair: Pair, picture: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Raises a `DataError` unless a picture (H, W, 3) and its labels (H, W) have one size."""
    if picture.shape[:2] != labels.shape:
        raise DataError(
            f"sizes differ (height, width): picture {pair.picture} has {picture.shape[:2]} "
            f"after its EXIF rotation, mask {pair.mask} has {labels.shape}; "
            "a mask labels every pixel of its picture"
        )
