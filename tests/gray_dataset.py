"""Images in memory whose right answer is known."""

import torch

from pna.data import DataError, Sample
from pna.labels import LabelSpace

GRAYS = LabelSpace(
    "grays", ("dark", "gray", "bright"), ((0, 0, 0), (90, 90, 90), (250, 250, 250)), (0, 2)
)


class Grays:
    """Gray blocks of odd sizes whose labels are what `by_brightness` finds at full size."""

    def __init__(self, labels=GRAYS, num_images=3, bad=()):
        self.labels = labels
        self.num_images = num_images
        self.bad = bad  # images that can't be read

    def __len__(self):
        return self.num_images

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"mask gray{index}.png: nothing in it")
        size = (9 + 4 * index, 14 - index)
        generator = torch.Generator().manual_seed(index)
        classes = torch.randint(0, 3, (5, 5), generator=generator)
        classes = classes.repeat_interleave(5, 0).repeat_interleave(5, 1)[: size[0], : size[1]]
        image = (classes.float() / 2).expand(3, -1, -1)
        labels = classes.clone()
        labels[0] = 255
        return Sample(image, labels, f"gray{index}")
