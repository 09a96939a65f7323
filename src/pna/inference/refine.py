"""Refinement of masks by the bundled network, in one call."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from pna.data.images import ImageLike, read_image
from pna.data.masks.arrays import MaskArray
from pna.errors import MissingFileError, PnaError
from pna.inference.devices import Device, find_device
from pna.inference.masks import refine_mask
from pna.model.state import fill, read_weights
from pna.refinement.masks import RefineConfig
from pna.refinement.network import MaskRefiner, create_mask_refiner

WEIGHTS = Path(__file__).parent.parent / "bundled" / "mask_refiner" / "model.safetensors"
"""Weights of the bundled network."""


def refine(
    image: ImageLike,
    mask: MaskArray,
    *,
    strength: float = RefineConfig.strength,
    radius: int | None = None,
    classes: Sequence[int] | None = None,
    device: Device | None = None,
) -> MaskArray:
    """Sharpen a mask of any source along the edges of its image.

    A pixel changes where the network is sure of another class, so a right mask stays. Images of any
    size are refined in parts that overlap. For many masks of one image pass one label map.

    Args:
        image: A path, the bytes of a file, a Pillow image, or an array (H, W, 3) uint8 RGB.
        mask: (H, W) bool; (H, W) integers from 0 to 255, labels of which 255 is ignored, or a mask
            of 0 and 255 alone; (H, W) floats in [0, 1], the probability of the foreground; or
            (K, H, W) floats, the probabilities of K classes, which sum to 1.
        strength: Between 0, where nothing changes, and 1, where every pixel gets its most probable
            class. In between a new class must lead the old one by a probability of `1 - strength`.
        radius: Pixels that an edge may move; None for any distance.
        classes: Only pixels that leave or enter one of these labels change; None for all.
        device: Such as "cpu" or "cuda:1"; None takes CUDA where there is one, else the CPU.

    Returns:
        The kind, shape and type of `mask`; ignored pixels stay.

    Raises:
        PnaError: Image and mask have different sizes, are no such arrays, a value is out of its
            range, or there is no such device.

    Example:
        >>> import numpy as np, pna
        >>> image = np.full((64, 96, 3), 40, np.uint8)
        >>> image[16:48, 24:72] = 200
        >>> mask = np.zeros((64, 96), bool)
        >>> mask[19:50, 24:69] = True
        >>> refined = pna.refine(image, mask)
        >>> refined.shape, refined.dtype
        ((64, 96), dtype('bool'))
    """
    config = RefineConfig(
        strength=strength,
        radius=radius,
        classes=None if classes is None else tuple(classes),
    )
    network = bundled_mask_refiner(find_device(device))
    return refine_mask(network, read_image(image), mask, config).mask


@lru_cache(maxsize=2)
def bundled_mask_refiner(device: torch.device) -> MaskRefiner:
    """Return the network that comes with the package, ready to use."""
    return load_mask_refiner(WEIGHTS).requires_grad_(False).to(device)


def load_mask_refiner(file: Path) -> MaskRefiner:
    """Read the weights of a mask refiner, in evaluation mode and float32.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It does not hold them.
    """
    from safetensors import SafetensorError

    if not file.is_file():
        raise MissingFileError(f"no weights at {file}: expected a file of safetensors")
    network = create_mask_refiner(encoder_weights=None)
    try:
        weights = read_weights(file)
    except SafetensorError as error:
        raise PnaError(f"{file}: expected a file of safetensors: {error}") from error
    fill(network, weights, str(file))
    return network.float().eval()
