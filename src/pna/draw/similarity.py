"""What a pixel looks at: the paper's Figure 1, drawn from the weights a model really used.

On the left the picture with the chosen pixel and, outlined, the window it attends to at each stage;
beside it, stage by stage, the part of the picture under the window with the attention weights
laid over it as heat. Windows shrink from stage to stage because the stride does: the same number
of cells covers half the pixels. A cell often gives itself most of the weight, so the heat is scaled
to the largest weight of its neighbours, and the title says how much is its own.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from pna.draw.overlay import check_picture
from pna.draw.palette import UInt8Array
from pna.draw.text import PAPER, write_centred
from pna.model.segmenter import StageSimilarity

_SIDE = 320  # of a panel's longer side, in pixels
_GAP, _TITLE, _TITLE_ROW = 12, 16, 30
_MARK = (255, 255, 255)
# One colour a stage, coarse to fine; further stages start over.
_STAGE_COLORS = ((230, 57, 70), (244, 162, 37), (42, 177, 117), (46, 134, 222))
# Heat from no weight to the largest: dark violet, red, orange, pale yellow.
_HEAT = ((20, 10, 60), (150, 20, 110), (235, 70, 50), (250, 170, 40), (255, 250, 190))


def similarity_figure(
    picture: UInt8Array, point: tuple[int, int], maps: Sequence[StageSimilarity]
) -> Image.Image:
    """Draw the neighborhood weights of one pixel at every stage.

    Args:
        picture: (H, W, 3) uint8 RGB.
        point: The pixel (x, y), from (0, 0) at the top left.
        maps: One entry a stage, coarse to fine; the weights are averaged over the heads.

    Raises:
        ValueError: If there is no stage, or the pixel lies outside the picture.
    """
    check_picture(picture)
    height, width = picture.shape[:2]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise ValueError(f"the pixel {point} lies outside the picture of {width} x {height} pixels")
    if not maps:
        raise ValueError("there are no stages to draw: the model has no refinement stages")
    panels = [(f"pixel ({point[0]}, {point[1]})", _map_panel(picture, point, maps))]
    for number, found in enumerate(maps):
        weights = found.weights.detach().float().mean(dim=0).cpu().numpy()
        own = float(weights[_query(found)])
        title = f"stage {found.stage}, stride {found.stride}, itself {100 * own:.0f} %"
        panels.append((title, _heat_panel(picture, found, weights, _stage_color(number))))
    return _row(panels)


def _stage_color(number: int) -> tuple[int, int, int]:
    return _STAGE_COLORS[number % len(_STAGE_COLORS)]


def _window(found: StageSimilarity) -> tuple[int, int, int, int]:
    """Return the window in pixels: left, top, right, bottom (exclusive)."""
    (top, bottom), (left, right) = found.rows, found.cols
    return left * found.stride, top * found.stride, right * found.stride, bottom * found.stride


def _map_panel(
    picture: UInt8Array, point: tuple[int, int], maps: Sequence[StageSimilarity]
) -> Image.Image:
    """Draw the whole picture with the windows outlined and the pixel marked."""
    height, width = picture.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for number, found in enumerate(maps):
        left, top, right, bottom = (round(value * scale) for value in _window(found))
        # The model pads to the right and below; what hangs over the picture isn't drawn.
        right, bottom = min(right, size[0]) - 1, min(bottom, size[1]) - 1
        box = (left, top, max(left, right), max(top, bottom))
        draw.rectangle(box, outline=_stage_color(number), width=2)
    x, y = ((value + 0.5) * scale for value in point)
    # White on black is seen on any ground; small, since the last window is small too.
    draw.circle((x, y), 4, fill=(0, 0, 0))
    draw.circle((x, y), 2.5, fill=_MARK)
    return image


def _heat_panel(
    picture: UInt8Array,
    found: StageSimilarity,
    weights: npt.NDArray[np.float32],
    color: tuple[int, int, int],
) -> Image.Image:
    """Draw the part of the picture under the window, enlarged, with the weights as heat."""
    rows, cols = weights.shape
    cell = max(1, _SIDE // max(rows, cols))
    size = (cols * cell, rows * cell)
    ground = Image.fromarray(_crop(picture, _window(found)))
    # Dark grey below, so that all colour and all light in the panel is heat.
    grey = np.array(ground.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    strength = _strength(weights, _query(found))
    strength = strength.repeat(cell, axis=0).repeat(cell, axis=1)
    cover = (0.2 + 0.55 * strength)[..., None]
    heated = 0.6 * grey[..., None] * (1 - cover) + _heat(strength) * cover
    image = Image.fromarray(np.rint(heated).astype(np.uint8))
    row, col = _query(found)
    box = (col * cell, row * cell, (col + 1) * cell - 1, (row + 1) * cell - 1)
    ImageDraw.Draw(image).rectangle(box, outline=_MARK, width=2)
    return ImageOps.expand(image, border=4, fill=color)


def _query(found: StageSimilarity) -> tuple[int, int]:
    """Return row and column of the query cell, counted from the window's corner."""
    return found.row - found.rows[0], found.col - found.cols[0]


def _strength(weights: npt.NDArray[np.float32], query: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Scale weights to [0, 1] by the largest of a neighbour: the query's own would hide them."""
    neighbours = weights.copy()
    neighbours[query] = 0
    return (weights / max(float(neighbours.max()), 1e-12)).clip(0, 1).astype(np.float32)


def _crop(picture: UInt8Array, box: tuple[int, int, int, int]) -> UInt8Array:
    """Cut out a box, repeating the last row and column beyond the picture, as the model pads."""
    left, top, right, bottom = box
    rows = np.arange(top, bottom).clip(0, picture.shape[0] - 1)
    cols = np.arange(left, right).clip(0, picture.shape[1] - 1)
    return np.ascontiguousarray(picture[rows[:, None], cols[None, :]])


def _heat(strength: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn values in [0, 1] into colours (..., 3) in [0, 255]."""
    places = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(strength, places, [color[i] for color in _HEAT]) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _row(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    columns = [max(image.width, _SIDE) for _, image in panels]
    height = max(image.height for _, image in panels)
    width = sum(columns) + _GAP * (len(panels) + 1)
    row = Image.new("RGB", (width, _TITLE_ROW + height + _GAP), PAPER)
    left = _GAP
    for (title, image), column in zip(panels, columns, strict=True):
        place = (left + (column - image.width) // 2, _TITLE_ROW + (height - image.height) // 2)
        row.paste(image, place)
        write_centred(row, title, (left + column // 2, _TITLE_ROW // 2), _TITLE)
        left += column + _GAP
    return row
