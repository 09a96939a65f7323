"""Transforms of a picture together with its labels, for training.

The paper's augmentation (section 4, implementation details): random scale in [0.5, 2], random crop,
random horizontal flip, random colour jitter. It gives no further numbers; those of the crop and the
base sizes are what the authors ran, those of the jitter are ours and stand below.

The order is chosen for the processor: resize and crop on bytes, then everything else on the crop.
All randomness is drawn from torch's CPU generator, so `randomness.seeded` controls it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from torchvision.tv_tensors import Image, Mask

from pna.labels import IGNORE_INDEX

JointTransform = Callable[[Image, Mask], tuple[Image, Mask]]
"""Takes a picture (3, H, W) uint8 and labels (H, W) uint8; returns both at one new size."""

MAX_SHARE = 0.75  # of the labelled pixels of a crop, for any one class
CROP_RETRIES = 10
GREY = 0.5  # padding of pictures, near the mean of natural pictures

JITTER = {"brightness": 0.25, "contrast": 0.5, "saturation": 0.5}
JITTER_PROBABILITY = 0.8
HUE_JITTER = 0.05  # of a full turn: 18 degrees
HUE_PROBABILITY = 0.5  # less often: the way to hue and back costs more than all the others together


def train_transform(
    crop: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    base_size: tuple[int, int] | None = None,
    short_sides: Sequence[int] | None = None,
    flip: float = 0.5,
    jitter: bool = True,
) -> JointTransform:
    """The training transform: scale, crop, flip, jitter, pad.

    Args:
        crop: Height and width of the result.
        scale: Range of the random factor; see `RandomScale`.
        base_size: A size the factor applies to, instead of the picture's own.
        short_sides: Lengths to choose the short side from, instead of a factor.
        flip: Probability of a horizontal flip.
        jitter: Whether colours are jittered.

    Returns:
        A function of a picture and its labels, uint8; the results are float32 in [0, 1] of size
        (3, *crop), and uint8 of size `crop`, ignored where padded.

    Raises:
        ValueError: If a size or range makes no sense, or `base_size` and `short_sides` are given.
    """
    steps: list[nn.Module] = [
        RandomScale(scale, base_size=base_size, short_sides=short_sides),
        RandomCrop(crop),
        v2.RandomHorizontalFlip(flip),
        v2.ToDtype({Image: torch.float32, "others": None}, scale=True),
    ]
    if jitter:
        steps.append(v2.RandomApply([v2.ColorJitter(**JITTER)], p=JITTER_PROBABILITY))
        steps.append(v2.RandomApply([v2.ColorJitter(hue=HUE_JITTER)], p=HUE_PROBABILITY))
    steps.append(Pad(crop))
    transform: JointTransform = v2.Compose(steps)
    return transform


class RandomScale(nn.Module):
    """Resizes by a random factor, the aspect kept.

    One of three rules:

    - a factor from `scale`, uniform, of the picture's own size;
    - `base_size` (a, b): the picture is fitted into (a, b) times the factor: the long side at most
      the longer, the short side at most the shorter (the authors' 2048x512 on VOC and COCO-Stuff);
    - `short_sides`: the short side becomes one of these (the authors' Cityscapes, DeepGlobe).
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.5, 2.0),
        *,
        base_size: tuple[int, int] | None = None,
        short_sides: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale is a range of positive factors, got {scale}")
        if base_size is not None and short_sides is not None:
            raise ValueError("base_size and short_sides are two rules for one size: give one")
        if min(base_size or (1,)) < 1:
            raise ValueError(f"base_size is two lengths in pixels, got {base_size}")
        if short_sides is not None and (not short_sides or min(short_sides) < 1):
            raise ValueError(f"short_sides are lengths in pixels, at least one, got {short_sides}")
        self.scale = scale
        self.base_size = base_size
        self.short_sides = short_sides

    def forward(self, picture: Image, labels: Mask) -> tuple[Image, Mask]:
        """Resizes the picture (antialiased bilinear) and the labels (nearest)."""
        height, width = picture.shape[-2:]
        factor = self._draw_factor(height, width)
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        return resize_picture(picture, size), resize_labels(labels, size)

    def _draw_factor(self, height: int, width: int) -> float:
        short, long = sorted((height, width))
        if self.short_sides is not None:
            return self.short_sides[_randint(len(self.short_sides))] / short
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        if self.base_size is None:
            return factor
        base_short, base_long = sorted(self.base_size)
        return factor * min(base_long / long, base_short / short)


class RandomCrop(nn.Module):
    """Cuts out a random window; the picture's whole length where it is shorter than the window.

    A window where one class covers more than `MAX_SHARE` of the labelled pixels, or where none is
    labelled, is drawn anew up to `CROP_RETRIES` times; the last one is taken whatever it holds.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        _check_crop(size)
        self.size = size

    def forward(self, picture: Image, labels: Mask) -> tuple[Image, Mask]:
        """Cuts the same window out of both."""
        height = min(self.size[0], picture.shape[-2])
        width = min(self.size[1], picture.shape[-1])
        for _ in range(1 + CROP_RETRIES):
            top = _randint(picture.shape[-2] - height + 1)
            left = _randint(picture.shape[-1] - width + 1)
            if is_varied(labels[top : top + height, left : left + width]):
                break
        return (
            TF.crop(picture, top, left, height, width),
            TF.crop(labels, top, left, height, width),
        )


class Pad(nn.Module):
    """Pads right and bottom up to a size: the picture with grey, the labels with ignored pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        _check_crop(size)
        self.size = size

    def forward(self, picture: Image, labels: Mask) -> tuple[Image, Mask]:
        """Pads a float picture and its labels."""
        bottom = max(0, self.size[0] - picture.shape[-2])
        right = max(0, self.size[1] - picture.shape[-1])
        padding = [0, 0, right, bottom]
        return TF.pad(picture, padding, fill=GREY), TF.pad(labels, padding, fill=IGNORE_INDEX)


def is_varied(labels: Tensor) -> bool:
    """Whether no class covers more than `MAX_SHARE` of the labelled pixels, and some are labelled.

    Args:
        labels: Labels (H, W), uint8.
    """
    counts = torch.bincount(labels.flatten(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    num_labelled = int(counts.sum())
    return num_labelled > 0 and int(counts.max()) <= MAX_SHARE * num_labelled


def resize_picture(picture: Image, size: Sequence[int]) -> Image:
    """Resizes a picture (3, H, W) bilinearly, antialiased when it shrinks."""
    if size[1] == 1 and picture.dtype == torch.uint8:
        # For a result one pixel wide PyTorch's kernel for bytes mixes up channels, or gives up
        # (seen in 2.14): it takes the result for channels-last.
        precise = resize_picture(Image(picture.float()), size)
        return Image(precise.round().to(torch.uint8))
    resized: Image = TF.resize(
        picture, list(size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True
    )
    return resized


def resize_labels(labels: Mask, size: Sequence[int]) -> Mask:
    """Resizes labels (H, W) by taking the nearest pixel.

    Nearest to the pixel's centre ("nearest-exact"), as the bilinear picture has it: torch's plain
    "nearest", which torchvision takes for masks, looks at the pixel's corner and would shift the
    labels against the picture by up to half a pixel.
    """
    planes = labels.as_subclass(Tensor)[None, None]
    resized = nn.functional.interpolate(planes, size=tuple(size), mode="nearest-exact")
    return Mask(resized[0, 0])


def _randint(high: int) -> int:
    return int(torch.randint(high, ()))


def _check_crop(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"the crop is a height and a width in pixels, got {size}")
