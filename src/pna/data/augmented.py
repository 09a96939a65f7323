"""A data set seen through a random transform: the same sample whenever and wherever it is asked."""

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from pna.data.dataset import Sample, SegmentationDataset
from pna.data.errors import DataError
from pna.data.randomness import mixed_seed, seeded
from pna.data.transforms import JointTransform

SUBSTITUTES = 10  # drawn for one sample before giving up: with so many bad, the data set is


class Augmented(Dataset[Sample]):
    """Transformed samples, indexed by (epoch, index).

    The transform's randomness is a function of (seed, epoch, index) alone, and torch's own state is
    left as it was found. So is the choice of the sample that stands in for one that can't be read.

    Args:
        dataset: Where the pictures come from.
        transform: Takes the picture (3, H, W) uint8 and the labels (H, W) uint8, returns a float32
            picture in [0, 1] and labels; draws only from torch's CPU generator.
        seed: 0 or more.
        skip_bad: Whether another sample takes the place of one that can't be read, instead of an
            error.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: JointTransform,
        seed: int,
        *,
        skip_bad: bool = False,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        unreadable: list[str] = []
        picture, labels, name = self._read(epoch, index, unreadable)
        with seeded(mixed_seed("sample", self.seed, epoch, index)):
            picture, labels = self.transform(Image(picture), Mask(labels))
        # Plain tensors: a batch of tensor subclasses would carry its dispatch through the model.
        return Sample(
            picture.as_subclass(Tensor),
            labels.as_subclass(Tensor).to(torch.int64),
            name,
            unreadable,
        )

    def _read(self, epoch: int, index: int, unreadable: list[str]) -> tuple[Tensor, Tensor, str]:
        """Reads a sample, or what stands in for it; notes what can't be read."""
        chosen = index
        for attempt in range(1 + SUBSTITUTES):
            if attempt:
                drawn = mixed_seed("substitute", self.seed, epoch, index, attempt)
                chosen = drawn % len(self.dataset)
            try:
                picture, labels = self.dataset.read(chosen)
            except DataError as error:
                if not self.skip_bad:
                    raise
                unreadable.append(str(error))
            else:
                return picture, labels, self.dataset.pairs[chosen].name
        raise DataError(
            f"{len(unreadable)} samples in a row can't be read, so more is wrong than skipping is "
            f"for; see all of it with `pna data check`. The first: {unreadable[0]}"
        )
