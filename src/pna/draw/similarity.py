"""The neighborhood of a pixel at each stage: the paper's Figure 1, from the weights of the model.

On the left the image with the chosen pixel and, outlined, the window that it attends to at each
stage; beside it, stage by stage, the part of the image under the window with the attention weights
laid over it as heat. Windows shrink from stage to stage because the stride does: the same number
of cells covers half the pixels. A cell often gives itself most of the weight, so the heat is scaled
to the largest weight of its neighbors, and the title holds its own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from pna.draw.layout import fit_size, panel_row
from pna.draw.overlay import check_image
from pna.draw.palette import UInt8Array
from pna.errors import PnaError
from pna.model.segmenter import StageSimilarity

_SIDE = 320  # of a panel's longer side, in pixels
_GAP, _TITLE_SIZE = 12, 16
_MARK = (255, 255, 255)
# One color a stage, coarse to fine; further stages start over.
_STAGE_COLORS = ((230, 57, 70), (244, 162, 37), (42, 177, 117), (46, 134, 222))
# Heat from no weight to the largest: dark violet, red, orange, pale yellow.
_HEAT = np.array([(20, 10, 60), (150, 20, 110), (235, 70, 50), (250, 170, 40), (255, 250, 190)])


def similarity_figure(
    image: UInt8Array, point: tuple[int, int], maps: Sequence[StageSimilarity]
) -> Image.Image:
    """Draw the neighborhood weights of one pixel at every stage.

    Args:
        image: (H, W, 3) uint8 RGB.
        point: The pixel (x, y), from (0, 0) at the top left.
        maps: One entry a stage, coarse to fine; the weights are averaged over the heads.

    Raises:
        PnaError: There is no stage, or the pixel lies outside the image.

    Example:
        >>> import numpy as np
        >>> import pna
        >>> photo = np.zeros((60, 80, 3), np.uint8)
        >>> prediction = pna.Predictor("voc-lite", device="cpu")(photo, similar=(40, 30))
        >>> similarity_figure(photo, (40, 30), prediction.similarity).width > 5 * 320
        True
    """
    check_image(image)
    height, width = image.shape[:2]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise PnaError(f"the pixel {point} lies outside the image of {width} x {height} pixels")
    if not maps:
        raise PnaError("there are no stages to draw: the model has no refinement stages")
    panels = [(f"pixel ({point[0]}, {point[1]})", _image_panel(image, point, maps))]
    for number, one in enumerate(maps):
        weights = one.weights.detach().float().mean(dim=0).cpu().numpy()  # (rows, cols)
        own = 100 * float(weights[one.row - one.rows[0], one.col - one.cols[0]])
        title = f"stage {one.stage}, stride {one.stride:g}, itself {own:.0f} %"
        color = _STAGE_COLORS[number % len(_STAGE_COLORS)]
        heat = ImageOps.expand(_heat_panel(image, one, weights), border=4, fill=color)
        panels.append((title, heat))
    return panel_row(panels, column=_SIDE, gap=_GAP, title_size=_TITLE_SIZE)


def _window(one: StageSimilarity) -> tuple[int, int, int, int]:
    """Return the window in pixels: left, top, right, bottom (exclusive)."""
    (top, bottom), (left, right) = one.rows, one.cols
    left, top, right, bottom = (round(edge * one.stride) for edge in (left, top, right, bottom))
    return left, top, right, bottom


def _image_panel(
    image: UInt8Array, point: tuple[int, int], maps: Sequence[StageSimilarity]
) -> Image.Image:
    """Draw the whole image with the windows outlined and the pixel marked."""
    size = fit_size(image, _SIDE)
    scale = _SIDE / max(image.shape[:2])
    panel = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(panel)
    for number, one in enumerate(maps):
        left, top, right, bottom = (round(value * scale) for value in _window(one))
        # The model pads to the right and below; the part of a window in the padding is cut off.
        right, bottom = min(right, size[0]) - 1, min(bottom, size[1]) - 1
        box = (left, top, max(left, right), max(top, bottom))
        draw.rectangle(box, outline=_STAGE_COLORS[number % len(_STAGE_COLORS)], width=2)
    x, y = ((value + 0.5) * scale for value in point)
    # White on black is visible on any ground; small, since the last window is small too.
    draw.circle((x, y), 4, fill=(0, 0, 0))
    draw.circle((x, y), 2.5, fill=_MARK)
    return panel


def _heat_panel(
    image: UInt8Array, one: StageSimilarity, weights: npt.NDArray[np.float32]
) -> Image.Image:
    """Draw the part of the image under the window, enlarged, with the weights as heat."""
    rows, cols = weights.shape
    row, col = one.row - one.rows[0], one.col - one.cols[0]  # the query, from the window's corner
    cell = max(1, _SIDE // max(rows, cols))  # whole pixels, so that cells are equal squares
    size = (cols * cell, rows * cell)
    left, top, right, bottom = _window(one)
    # Beyond the image the last row and column repeat, as in the model's padding.
    down = np.arange(top, bottom).clip(0, image.shape[0] - 1)
    across = np.arange(left, right).clip(0, image.shape[1] - 1)
    ground = Image.fromarray(np.ascontiguousarray(image[down[:, None], across[None]]))
    # Dark gray below, so that all color and all light in the panel is heat.
    gray = np.array(ground.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    neighbors = weights.copy()
    neighbors[row, col] = 0  # the query's own weight would hide all others
    # The bound: with a window of one cell there are no neighbors.
    strength = (weights / max(float(neighbors.max()), 1e-12)).clip(0, 1)
    strength = strength.repeat(cell, axis=0).repeat(cell, axis=1)
    steps = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(strength, steps, channel) for channel in _HEAT.T], axis=-1)
    cover = (0.2 + 0.55 * strength)[..., None]
    heated = 0.6 * gray[..., None] * (1 - cover) + heat * cover
    panel = Image.fromarray(np.rint(heated).astype(np.uint8))
    box = (col * cell, row * cell, (col + 1) * cell - 1, (row + 1) * cell - 1)
    ImageDraw.Draw(panel).rectangle(box, outline=_MARK, width=2)
    return panel
