"""A data set behind a random transform, reproducible sample by sample."""

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.tv_tensors import Image, Mask

from pna.data.dataset import Sample, SegmentationDataset
from pna.data.errors import DataError
from pna.data.randomness import mixed_seed, seeded
from pna.data.transforms import JointTransform

SUBSTITUTES = 10  # drawn for one sample; with more bad ones in a row the data set is damaged


class Augmented(Dataset[Sample]):
    """Transformed samples, indexed by (epoch, index).

    The transform's randomness is a function of (seed, epoch, index) alone, and torch's own state is
    restored. So is the choice of the sample that replaces one that can't be read.

    Args:
        dataset: The images, as stored.
        transform: Takes the image (3, H, W) uint8 and the labels (H, W) uint8, returns a float32
            image in [0, 1] and labels; draws only from torch's CPU generator.
        seed: 0 or more.
        skip_bad: Whether another sample takes the place of one that can't be read, instead of an
            error.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data import create_dataset, train_transform
        >>> from pna.data.synthetic import write_camvid
        >>> dataset = create_dataset("camvid", write_camvid(mkdtemp()), "train")
        >>> samples = Augmented(dataset, train_transform((64, 80)), seed=0)
        >>> samples[0, 3].image.shape, torch.equal(samples[0, 3].image, samples[0, 3].image)
        (torch.Size([3, 64, 80]), True)
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
        image, labels, name = self._read(epoch, index, unreadable)
        with seeded(mixed_seed("sample", self.seed, epoch, index)):
            image, labels = self.transform(Image(image), Mask(labels))
        # Plain tensors: a batch of tensor subclasses would carry its dispatch through the model.
        return Sample(
            image.as_subclass(Tensor),
            labels.as_subclass(Tensor).to(torch.int64),
            name,
            unreadable,
        )

    def _read(self, epoch: int, index: int, unreadable: list[str]) -> tuple[Tensor, Tensor, str]:
        """Read a sample or its substitute; add a message to `unreadable` for each failure."""
        chosen = index
        for attempt in range(1 + SUBSTITUTES):
            if attempt:
                # Drawn anew, not the next index: neighbors of a damaged file are often damaged too.
                drawn = mixed_seed("substitute", self.seed, epoch, index, attempt)
                chosen = drawn % len(self.dataset)
            try:
                image, labels = self.dataset.read_raw(chosen)
            except DataError as error:
                if not self.skip_bad:
                    raise
                unreadable.append(str(error))
            else:
                return image, labels, self.dataset.pairs[chosen].name
        raise DataError(
            f"{len(unreadable)} samples in a row can't be read: the data set itself is damaged; "
            f"list all its problems with `pna data check`. The first: {unreadable[0]}"
        )
