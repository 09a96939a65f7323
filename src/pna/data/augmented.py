"""A data set seen through a random transform: the same sample whenever and wherever it is asked."""

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from pna.data.dataset import Sample, SegmentationDataset
from pna.data.randomness import mixed_seed, seeded
from pna.data.transforms import JointTransform


class Augmented(Dataset[Sample]):
    """Transformed samples, indexed by (epoch, index).

    The transform's randomness is a function of (seed, epoch, index) alone, and torch's own state is
    left as it was found.

    Args:
        dataset: Where the pictures come from.
        transform: Takes the picture (3, H, W) uint8 and the labels (H, W) uint8, returns a float32
            picture in [0, 1] and labels; draws only from torch's CPU generator.
        seed: 0 or more.
    """

    def __init__(self, dataset: SegmentationDataset, transform: JointTransform, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        picture, labels = self.dataset.read(index)
        with seeded(mixed_seed("sample", self.seed, epoch, index)):
            picture, labels = self.transform(Image(picture), Mask(labels))
        # Plain tensors: a batch of tensor subclasses would carry its dispatch through the model.
        return Sample(
            picture.as_subclass(Tensor),
            labels.as_subclass(Tensor).to(torch.int64),
            self.dataset.pairs[index].name,
        )
