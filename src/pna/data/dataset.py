"""The base of every data set: samples, and how they are read and checked."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pna.bands import Band
from pna.data.errors import DataError
from pna.data.pairs import Pair
from pna.data.reading import checked_labels, read_band_image, read_image, read_index_mask
from pna.labels import IGNORE_INDEX, LabelSpace


class Sample(NamedTuple):
    """An image and its labels.

    Attributes:
        image: (C, H, W) float32 in [0, 1], red-green-blue or the data set's bands.
        labels: (H, W) int64, classes 0..K-1, 255 ignored.
        name: Stem of the files.
        unreadable: Messages about samples that could not be read and that this one replaces.
    """

    image: Tensor
    labels: Tensor
    name: str
    unreadable: Sequence[str] = ()


class Batch(NamedTuple):
    """Samples of one size, stacked; the fields are those of `Sample`.

    Attributes:
        image: (B, C, H, W) float32 in [0, 1].
        labels: (B, H, W) int64.
        name: B stems.
        unreadable: Those of all samples, one after the other.
    """

    image: Tensor
    labels: Tensor
    name: list[str]
    unreadable: Sequence[str] = ()


class SegmentationDataset(Dataset[Sample]):
    """Images with a label for every pixel.

    A data set is one file with one subclass: its constructor finds the pairs, its `read_mask`
    translates a mask from the owners' storage. Three readers, from raw to ready:

    - `read_mask(pair)`: class indices of one mask, not yet checked
    - `read_raw(index)`: image and labels as bytes, checked, for transforms
    - `dataset[index]`: a `Sample`, float image in [0, 1], for evaluation

    Args:
        pairs: The images and masks.
        labels: The label space.

    Attributes:
        pairs: The images and masks, in order.
        labels: The label space.
        splits: The parts it comes in.
        counts: Images in each part as published, where numbers are published.
        withheld: Parts whose labels the owners keep to themselves: every pixel is ignored.
        bands: The channels of the images; None are red, green and blue.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data import create_dataset
        >>> from pna.data.synthetic import write_camvid
        >>> dataset = create_dataset("camvid", write_camvid(mkdtemp()), "train")
        >>> sample = dataset[0]
        >>> len(dataset), tuple(sample.image.shape), sample.labels.dtype, sample.name
        (4, (3, 96, 128), torch.int64, '0001TP_000000')
    """

    splits: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[Mapping[str, int]] = {}
    withheld: ClassVar[tuple[str, ...]] = ()
    bands: tuple[Band, ...] | None = None

    def __init__(self, pairs: Sequence[Pair], labels: LabelSpace) -> None:
        # A tuple: workers have copies of the data set, which a change would not reach.
        self.pairs = tuple(pairs)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample at its own size, untransformed.

        Raises:
            DataError: If a file is damaged, sizes differ, or a label is no class.
        """
        image, labels = self.read_raw(index)
        # int64, as cross-entropy takes class indices.
        if not image.is_floating_point():
            image = image.float() / 255
        return Sample(image, labels.long(), self.pairs[index].name)

    def read_raw(self, index: int) -> tuple[Tensor, Tensor]:
        """Read one sample as bytes; images of bands as floats.

        Returns:
            Image (3, H, W) uint8, or (C, H, W) float32 in [0, 1], and labels (H, W) uint8, classes
            or 255. Where a band has no data, pixels are ignored.

        Raises:
            DataError: If a file is damaged, sizes differ, or a label is no class.
        """
        pair = self.pairs[index]
        image, valid = self.read_planes(pair)
        labels = checked_labels(self.read_mask(pair), pair.mask, self.labels)
        check_sizes(pair, image, labels)
        if valid is not None:
            labels = np.where(valid, labels, np.uint8(IGNORE_INDEX))
        return torch.from_numpy(image), torch.from_numpy(labels)

    def read_planes(self, pair: Pair) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read the image of a pair: (C, H, W), and of bands (H, W), where all have data.

        Raises:
            DataError: If the file is damaged or lacks a band.
        """
        if self.bands is not None:
            return read_band_image(pair.image, self.bands)
        # Contiguous planes: resizing and batching are several times faster on them.
        return np.ascontiguousarray(read_image(pair.image).transpose(2, 0, 1)), None

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the mask of a pair as class indices (H, W); here they are stored as such.

        Raises:
            DataError: If the file is missing or damaged, or holds a value without a meaning.
        """
        return read_index_mask(pair.mask)

    def subset(self, indices: Iterable[int]) -> Self:
        """Return a data set of some of the pairs; this one stays as it is.

        Args:
            indices: Which pairs, in this order.

        Example:
            >>> from tempfile import mkdtemp
            >>> from pna.data import create_dataset
            >>> from pna.data.synthetic import write_camvid
            >>> dataset = create_dataset("camvid", write_camvid(mkdtemp()), "train")
            >>> [pair.name for pair in dataset.subset([2, 0]).pairs]
            ['0001TP_000002', '0001TP_000000']
        """
        # Shallow: what a subclass has found out about its masks holds for the part too.
        part = copy.copy(self)
        part.pairs = tuple(self.pairs[index] for index in indices)
        return part

    @classmethod
    def check_split(cls, split: str) -> None:
        """Raise a `DataError` that lists the splits, unless `split` is one of them."""
        if split not in cls.splits:
            raise DataError(
                f"{cls.__name__} has no split {split!r}: expected one of {', '.join(cls.splits)}"
            )


def check_sizes(pair: Pair, image: NDArray[Any], labels: NDArray[np.uint8]) -> None:
    """Raise a `DataError` unless an image (C, H, W) and its labels (H, W) have one size."""
    if image.shape[1:] != labels.shape:
        raise DataError(
            f"sizes differ (height, width): image {pair.image} has {image.shape[1:]} "
            f"after its EXIF rotation, mask {pair.mask} has {labels.shape}; "
            "a mask labels every pixel of its image"
        )
