"""The arrays that this room takes: an image, and probabilities of its size."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pna.errors import PnaError

FloatArray = npt.NDArray[np.float32]


def check_image(image: npt.NDArray[np.uint8]) -> None:
    """Check the shape and type of an image.

    Raises:
        PnaError: It is no array (H, W, 3) uint8, or an empty one.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise PnaError(f"expected an image (H, W, 3) uint8, got {image.shape} {image.dtype}")


def check_arrays(
    image: npt.NDArray[np.uint8], probabilities: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], FloatArray]:
    """Check the shapes and types of an image and its probabilities.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (K, H, W) floats.

    Returns:
        The image, and the probabilities as float32, their values unchecked.

    Raises:
        PnaError: Shapes or types do not fit.

    Example:
        >>> image, given = check_arrays(np.zeros((4, 5, 3), np.uint8), np.ones((2, 4, 5)))
        >>> given.shape, given.dtype
        ((2, 4, 5), dtype('float32'))
    """
    image, given = np.asarray(image), np.asarray(probabilities)
    check_image(image)
    if given.ndim != 3 or given.shape[0] < 1 or given.shape[1:] != image.shape[:2]:
        raise PnaError(
            f"expected probabilities (K, {image.shape[0]}, {image.shape[1]}) at the size of the "
            f"image, got {given.shape}"
        )
    if not np.issubdtype(given.dtype, np.floating):
        raise PnaError(f"expected probabilities as floats, got {given.dtype}")
    return image, given.astype(np.float32)


def normalize(given: FloatArray) -> FloatArray:
    """Divide probabilities by their sum over the classes.

    Args:
        given: (K, H, W), at least 0, each pixel's with a positive sum.

    Returns:
        (K, H, W); they sum to 1 over the classes.

    Raises:
        PnaError: A value is negative or not finite, or a pixel's sum is 0.

    Example:
        >>> normalize(np.array([[[1.0]], [[3.0]]], np.float32)).ravel().tolist()
        [0.25, 0.75]
    """
    sums = given.sum(axis=0)
    # `not (... >= 0)` is also true for NaN.
    if not (given.min() >= 0 and sums.min() > 0 and np.isfinite(sums).all()):
        raise PnaError(
            f"expected probabilities of at least 0 with a positive, finite sum at each pixel, got "
            f"values in [{given.min():.3g}, {given.max():.3g}]; take the softmax of logits first"
        )
    normalized: FloatArray = given / sums
    return normalized
