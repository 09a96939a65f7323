"""Transforms of an image together with its labels, for training.

The paper's augmentation (section 4, implementation details): random scale in [0.5, 2], random crop,
random horizontal flip, random color jitter. It gives no further numbers; those of the crop and the
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

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX

JointTransform = Callable[[Image, Mask], tuple[Image, Mask]]
"""Takes an image (3, H, W) uint8 and labels (H, W) uint8; returns both at one new size."""

MAX_SHARE = 0.75  # of the labeled pixels of a crop, for any one class
CROP_RETRIES = 10  # an image of one class has no varied window: after them any is taken
GRAY = 0.5  # padding of images, near the mean of natural images

JITTER = {"brightness": 0.25, "contrast": 0.5, "saturation": 0.5}
JITTER_PROBABILITY = 0.8
HUE_JITTER = 0.05  # of a full turn: 18 degrees
HUE_PROBABILITY = 0.5  # less often: it costs more than all the others together


def train_transform(
    crop: tuple[int, int],
    *,
    scale: tuple[float, float] = (0.5, 2.0),
    base_size: tuple[int, int] | None = None,
    short_sides: Sequence[int] | None = None,
    flip: float = 0.5,
    jitter: bool = True,
) -> JointTransform:
    """Make the training transform: scale, crop, flip, jitter, pad.

    Args:
        crop: Height and width of the result.
        scale: Range of the random factor; see `RandomScale`.
        base_size: A size the factor applies to, instead of the image's own.
        short_sides: Lengths to choose the short side from, instead of a factor.
        flip: Probability of a horizontal flip.
        jitter: Whether colors are jittered.

    Returns:
        A function of an image and its labels, uint8; the results are float32 in [0, 1],
        (3, height, width) of `crop`, and uint8 of that size, ignored where padded.

    Raises:
        PnaError: If a size or range makes no sense, or `base_size` and `short_sides` are given.

    Example:
        >>> transform = train_transform((32, 48))
        >>> image, labels = torch.zeros(3, 60, 80), torch.zeros(60, 80)
        >>> image, labels = transform(Image(image.byte()), Mask(labels.byte()))
        >>> tuple(image.shape), image.dtype, tuple(labels.shape)
        ((3, 32, 48), torch.float32, (32, 48))
    """
    steps: list[nn.Module] = [
        RandomScale(scale, base_size=base_size, short_sides=short_sides),
        RandomCrop(crop),
        v2.RandomHorizontalFlip(flip),
        # Jitter needs floats. The steps before work on bytes: a quarter of the memory to move.
        v2.ToDtype({Image: torch.float32, "others": None}, scale=True),
    ]
    if jitter:
        steps.append(v2.RandomApply([v2.ColorJitter(**JITTER)], p=JITTER_PROBABILITY))
        steps.append(v2.RandomApply([v2.ColorJitter(hue=HUE_JITTER)], p=HUE_PROBABILITY))
    # Last, so that jitter leaves the padding gray.
    steps.append(Pad(crop))
    transform: JointTransform = v2.Compose(steps)
    return transform


class RandomScale(nn.Module):
    """Resize by a random factor, the aspect kept.

    One of three rules:

    - a factor from `scale`, uniform, of the image's own size;
    - `base_size` (a, b): the image is fitted into (a, b) times the factor: the long side at most
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
            raise PnaError(f"scale is a range of positive factors, got {scale}")
        if base_size is not None and short_sides is not None:
            raise PnaError("base_size and short_sides are two rules for one size: give one")
        if min(base_size or (1,)) < 1:
            raise PnaError(f"base_size is two lengths in pixels, got {base_size}")
        if short_sides is not None and (not short_sides or min(short_sides) < 1):
            raise PnaError(f"short_sides are lengths in pixels, at least one, got {short_sides}")
        self.scale = scale
        self.base_size = base_size
        self.short_sides = short_sides

    def forward(self, image: Image, labels: Mask) -> tuple[Image, Mask]:
        """Resize the image (antialiased bilinear) and the labels (nearest)."""
        height, width = image.shape[-2:]
        factor = self._draw_factor(height, width)
        # A thin image must not vanish at the smallest factor.
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        return resize_image(image, size), resize_labels(labels, size)

    def _draw_factor(self, height: int, width: int) -> float:
        short, long = sorted((height, width))
        if self.short_sides is not None:
            return self.short_sides[_randint(len(self.short_sides))] / short
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        if self.base_size is None:
            return factor
        # Fitted whichever way the image lies: a portrait gets the base size turned.
        base_short, base_long = sorted(self.base_size)
        return factor * min(base_long / long, base_short / short)


class RandomCrop(nn.Module):
    """Cut out a random window; the image's whole length where it is shorter than the window.

    A window where one class covers more than `MAX_SHARE` of the labeled pixels, or where none is
    labeled, is drawn anew up to `CROP_RETRIES` times; the last one is taken in any case.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        _check_crop(size)
        self.size = size

    def forward(self, image: Image, labels: Mask) -> tuple[Image, Mask]:
        """Cut the same window out of both."""
        height = min(self.size[0], image.shape[-2])
        width = min(self.size[1], image.shape[-1])
        # Most windows of a street or a sky hold one class alone, and teach no boundary.
        for _ in range(1 + CROP_RETRIES):
            top = _randint(image.shape[-2] - height + 1)
            left = _randint(image.shape[-1] - width + 1)
            if is_varied(labels[top : top + height, left : left + width]):
                break
        return (
            TF.crop(image, top, left, height, width),
            TF.crop(labels, top, left, height, width),
        )


class Pad(nn.Module):
    """Pad right and bottom up to a size: the image with gray, the labels with ignored pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        _check_crop(size)
        self.size = size

    def forward(self, image: Image, labels: Mask) -> tuple[Image, Mask]:
        """Pad a float image and its labels."""
        bottom = max(0, self.size[0] - image.shape[-2])
        right = max(0, self.size[1] - image.shape[-1])
        padding = [0, 0, right, bottom]
        return TF.pad(image, padding, fill=GRAY), TF.pad(labels, padding, fill=IGNORE_INDEX)


def is_varied(labels: Tensor) -> bool:
    """Return whether some pixels are labeled and no class has more than `MAX_SHARE` of them.

    Args:
        labels: Labels (H, W), uint8.
    """
    # Ignored pixels do not count: a window may be half void and still be varied.
    counts = torch.bincount(labels.flatten(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    num_labeled = int(counts.sum())
    return num_labeled > 0 and int(counts.max()) <= MAX_SHARE * num_labeled


def resize_image(image: Image, size: Sequence[int]) -> Image:
    """Resize an image (3, H, W) bilinearly, antialiased when it shrinks."""
    if size[1] == 1 and image.dtype == torch.uint8:
        # For a result one pixel wide PyTorch's kernel for bytes mixes up channels, or gives up
        # (seen in 2.14): it takes the result for channels-last.
        precise = resize_image(Image(image.float()), size)
        return Image(precise.round().to(torch.uint8))
    resized: Image = TF.resize(
        image, list(size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True
    )
    return resized


def resize_labels(labels: Mask, size: Sequence[int]) -> Mask:
    """Resize labels (H, W) by taking the nearest pixel.

    Nearest to the pixel's center ("nearest-exact"), as in the bilinear image. torch's plain
    "nearest", which torchvision takes for masks, is nearest to the pixel's corner and would shift
    the labels against the image by up to half a pixel.
    """
    # `interpolate` takes batches of planes, and plain tensors.
    planes = labels.as_subclass(Tensor)[None, None]  # (1, 1, H, W)
    resized = nn.functional.interpolate(planes, size=tuple(size), mode="nearest-exact")
    return Mask(resized[0, 0])


def _randint(high: int) -> int:
    return int(torch.randint(high, ()))


def _check_crop(size: tuple[int, int]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise PnaError(f"the crop is a height and a width in pixels, got {size}")
