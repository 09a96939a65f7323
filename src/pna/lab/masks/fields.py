"""Scalar fields over an image: size of a mask, resizing, blur, smooth noise, signed distance.

Beyond the border of the image every field continues with its border pixels. An object that the
border cuts therefore isn't eroded from outside.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Pixels times passes of a distance transform; more than about 0.3 s on one core is cut down.
_WORK = 2e7


def has_boundary(labels: npt.NDArray[np.generic]) -> bool:
    """Return whether a mask or a label map holds two different values.

    Example:
        >>> has_boundary(np.array([[False, True]])), has_boundary(np.ones((3, 4), bool))
        (True, False)
    """
    return bool((labels != labels.flat[0]).any())


def mean_width(mask: BoolArray) -> float:
    """Measure how wide the foreground is on average, in pixels: 2 * area / perimeter.

    This is the width of a strip and the radius of a disk. An outline that is d pixels off changes a
    share of about 2 * d / width of the foreground. The border of the image counts as no perimeter.

    Args:
        mask: (H, W) bool with a boundary.

    Example:
        >>> strip = np.zeros((100, 100), bool)
        >>> strip[40:50] = True
        >>> round(mean_width(strip), 1)
        12.7
    """
    return 2 * float(np.count_nonzero(mask)) / perimeter(mask)


def perimeter(labels: npt.NDArray[np.generic]) -> float:
    """Measure the length of all boundaries within the image, in pixels, averaged over directions.

    Example:
        >>> round(perimeter(np.arange(100).reshape(10, 10) < 50), 2)  # one straight boundary
        7.85
    """
    num_sides = np.count_nonzero(labels[1:] != labels[:-1])
    num_sides += np.count_nonzero(labels[:, 1:] != labels[:, :-1])
    # A slanted line crosses more pixel sides than it is long; 4 / pi is the mean over all slants.
    return float(num_sides) * math.pi / 4


def bounds(mask: BoolArray) -> tuple[slice, slice]:
    """Return the rows and columns that hold the foreground; it must not be empty.

    Example:
        >>> bounds(np.array([[0, 0, 0], [0, 1, 1]], bool))
        (slice(1, 2, None), slice(1, 3, None))
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def extent(mask: BoolArray) -> int:
    """Return the longer side of the foreground's bounding box in pixels.

    Example:
        >>> extent(np.array([[0, 0, 0], [0, 1, 1]], bool))
        2
    """
    return max(int(side.stop - side.start) for side in bounds(mask))


def resize(
    field: npt.NDArray[np.generic],
    shape: tuple[int, ...],
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> FloatArray:
    """Resize a field; pixel centers lie at half pixels.

    Args:
        field: (H, W) floats or bool.
        shape: (h, w), at least 1 x 1.
        resampling: BOX averages areas exactly where it shrinks.

    Returns:
        (h, w) float32.

    Example:
        >>> resize(np.array([[1, 0, 0, 0], [1, 1, 0, 0]]), (1, 2), Image.Resampling.BOX).tolist()
        [[0.75, 0.0]]
    """
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.array(image.resize((shape[1], shape[0]), resampling))


def shrink(field: npt.NDArray[np.generic], factor: float) -> FloatArray:
    """Average areas down to 1 / factor of the size, at least 1 x 1.

    Example:
        >>> shrink(np.eye(4), 2).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    H, W = field.shape
    shape = max(1, round(H / factor)), max(1, round(W / factor))
    return resize(field, shape, Image.Resampling.BOX)


def through_grid(
    field: npt.NDArray[np.generic], cell: float, phase: tuple[float, float]
) -> FloatArray:
    """Average the areas of the cells of a coarse grid, and resize back bilinearly.

    Args:
        field: (H, W) floats or bool.
        cell: Pixels per cell, at least 1.
        phase: Where the first row and column of cells begin before the image, in cells, [0, 1).

    Returns:
        (H, W) float32.

    Example:
        >>> through_grid(np.arange(6)[None] >= 2, 2, (0, 0)).tolist()
        [[0.0, 0.25, 0.75, 1.0, 1.0, 1.0]]
    """
    top, left = (int(share * cell) for share in phase)
    padded = np.pad(field, ((top, 0), (left, 0)), mode="edge")
    return resize(shrink(padded, cell), padded.shape)[top:, left:]


def blur(field: npt.NDArray[np.generic], sigma: float) -> FloatArray:
    """Blur by a Gaussian, in steps of 1/255.

    Args:
        field: (H, W) values in [0, 1].
        sigma: Standard deviation in pixels.

    Example:
        >>> (20 * blur(np.arange(8)[None] >= 4, 1.0)).astype(int).tolist()
        [[0, 0, 1, 5, 14, 18, 19, 20]]
    """
    # Pillow's blur takes as long for a wide Gaussian as for a narrow one.
    image = Image.fromarray((np.asarray(field, dtype=np.float32) * 255 + 0.5).astype(np.uint8))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(float(sigma))), dtype=np.float32)
    return blurred / np.float32(255)


def draw_seed(rng: np.random.Generator) -> int:
    """Draw a seed: what is drawn from it is the same each time.

    Example:
        >>> draw_seed(np.random.default_rng(0)) == draw_seed(np.random.default_rng(0))
        True
    """
    return int(rng.integers(2**63))


def smooth_noise(shape: tuple[int, ...], num_cells: int, rng: np.random.Generator) -> FloatArray:
    """Make a smooth random field with values around 0, of a standard deviation a little below 1.

    The numbers drawn depend on `num_cells` only. One seed gives the same field at every resolution.

    Args:
        shape: (H, W).
        num_cells: Independent values along the longer side, at least 1.
        rng: Source of the values.

    Returns:
        (H, W) float32.

    Example:
        >>> large = smooth_noise((60, 100), 5, np.random.default_rng(0))
        >>> small = smooth_noise((30, 50), 5, np.random.default_rng(0))
        >>> bool(np.abs(resize(large, (30, 50), Image.Resampling.BOX) - small).max() < 0.1)
        True
    """
    values = rng.standard_normal((num_cells, num_cells)).astype(np.float32)
    side = max(shape)
    # The shorter side takes its share of the cells: cells stay square.
    box = (0, 0, num_cells * shape[1] / side, num_cells * shape[0] / side)
    image = Image.fromarray(values)
    return np.array(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box))


def signed_distance(mask: BoolArray, reach: float) -> FloatArray:
    """Measure the distance to the boundary: above 0 in the foreground, below 0 in the background.

    Args:
        mask: (H, W) bool.
        reach: Largest distance of interest in pixels; see `distance_to`.

    Returns:
        (H, W) float32.

    Example:
        >>> signed_distance(np.arange(6)[None] >= 3, reach=2).tolist()
        [[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]]
    """
    # A pixel is as far from the boundary as from the nearest pixel of the other kind.
    return distance_to(~mask, reach) - distance_to(mask, reach)


def distance_to(targets: BoolArray, reach: float) -> FloatArray:
    """Measure the distance of each pixel's center to the boundary of the nearest target pixel.

    Exact between the pixels' centers, less half a pixel, up to `reach`; whatever is farther holds a
    larger value. Large maps are measured on a coarser grid: the larger map and reach, the coarser.

    Args:
        targets: (H, W) bool.
        reach: Largest distance of interest in pixels.

    Returns:
        (H, W) float32, 0 on targets.

    Example:
        >>> distance_to(np.arange(6)[None] >= 3, reach=2).tolist()
        [[2.5, 1.5, 0.5, 0.0, 0.0, 0.0]]
    """
    reach = max(reach, 1.0)
    step = math.ceil((targets.size * reach / _WORK) ** (1 / 3))
    if step > 1:
        coarse = distance_to(shrink(targets, step) > 0.5, reach / step)
        return resize(coarse * np.float32(step), targets.shape)
    H, W = targets.shape
    radius = math.ceil(reach) + 1
    # First along the columns, then the least of vertical**2 + horizontal**2 along the rows.
    rows = np.arange(H, dtype=np.int32)[:, None]
    far = np.int32(H + radius)
    above = np.maximum.accumulate(np.where(targets, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(targets, rows, 2 * far)[::-1], axis=0)[::-1]
    vertical = np.minimum(np.minimum(rows - above, below - rows), radius).astype(np.float32)
    vertical *= vertical
    squares = vertical.copy()
    for offset in range(1, min(radius, W)):
        squared = np.float32(offset * offset)
        left, right = squares[:, :-offset], squares[:, offset:]
        np.minimum(left, vertical[:, offset:] + squared, out=left)
        np.minimum(right, vertical[:, :-offset] + squared, out=right)
    return np.maximum(np.sqrt(squares) - np.float32(0.5), 0)
