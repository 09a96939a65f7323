"""What the page asks for: models, run on images within bounds, with the time of each part."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from pna.data.errors import DataWarning
from pna.data.images import UInt8Array, read_image
from pna.data.masks.arrays import MaskArray
from pna.data.masks.files import MaskFile, read_mask
from pna.data.masks.sizes import fit_to_image
from pna.draw import similarity_figure
from pna.errors import PnaError
from pna.inference.devices import Device, find_device
from pna.inference.masks import refine_mask
from pna.inference.opening import open_model
from pna.inference.predictor import Predictor
from pna.inference.refine import bundled_mask_refiner
from pna.inference.tiling import WHOLE, TilingConfig
from pna.labels import LabelSpace
from pna.model.presets import PRESETS, Preset
from pna.refinement.masks import RefineConfig

MOST_PIXELS = 50_000_000
"""Pixels of an image that the page takes."""
WHOLE_PIXELS = 2_000_000
"""Pixels up to which an image is run whole; a larger one is run in tiles."""
TILES = TilingConfig(tile=(1024, 1024))


@dataclass(frozen=True, eq=False)
class Result:
    """An image, segmented.

    Attributes:
        model: The model's name.
        image: (H, W, 3) uint8 RGB.
        label_space: Names and colors of the classes.
        stages: (H, W) uint8 label maps, P0 to Pn.
        confidence: (H, W) uint8, the probability of the last stage's class in 255ths.
        seconds: What each part of the model took, in order, and "all" with reading and drawing
            left out.
        tiling: How the model ran.
    """

    model: str
    image: UInt8Array
    label_space: LabelSpace
    stages: Sequence[UInt8Array]
    confidence: UInt8Array
    seconds: Mapping[str, float]
    tiling: TilingConfig


@dataclass(frozen=True, eq=False)
class Refined:
    """A mask, refined.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        given: The mask as it was given.
        mask: Refined, of its kind.
        wrong: (H, W) float32, the probability that the given mask is wrong.
        seconds: What the refinement took.
    """

    image: UInt8Array
    given: MaskFile
    mask: MaskArray
    wrong: npt.NDArray[np.float32]
    seconds: float


class Neighborhood(NamedTuple):
    """The neighborhoods of a pixel.

    Attributes:
        figure: The paper's Figure 1.
        text: What it shows, in words.
    """

    figure: Image.Image
    text: str


@dataclass
class Desk:
    """Models that the page offers, opened when they are first asked for.

    Args:
        names: Saved models, bundled names or ONNX files, the default first; at least one.
        device: Where they run; None takes CUDA where there is one, else the CPU.
        presets: Presets that saved models may name.

    Raises:
        PnaError: There is no model, or no such device.

    Example:
        >>> import numpy as np
        >>> desk = Desk(["voc-lite"], device="cpu")
        >>> result = desk.segment(np.zeros((60, 80, 3), np.uint8), "voc-lite")
        >>> len(result.stages), list(result.seconds)
        (5, ['features', 'P0', 'P1', 'P2', 'P3', 'P4', 'all'])
    """

    names: Sequence[str]
    device: Device | None = None
    presets: Mapping[str, Preset] = field(default_factory=lambda: PRESETS)

    def __post_init__(self) -> None:
        if not self.names:
            raise PnaError("there is no model to offer: name one by --model")
        self._device = find_device(self.device)
        self._predictors: dict[str, Predictor] = {}

    def predictor(self, name: str, tiling: TilingConfig = WHOLE) -> Predictor:
        """Return the predictor of one of the models.

        Raises:
            PnaError: It is none of them, or cannot be opened.
        """
        if name not in self.names:
            raise PnaError(f"expected one of the models {', '.join(self.names)}, got {name!r}")
        if name not in self._predictors:
            model = open_model(name, device=self._device, presets=self.presets)
            if len(model.mean) != 3:
                raise PnaError(
                    f"{name} takes images of {len(model.mean)} bands; this page takes photos. On "
                    "the command line `pna segment` takes rasters of bands"
                )
            self._predictors[name] = Predictor(model, device=self._device)
        known = self._predictors[name]
        return Predictor(known.model, device=self._device, tiling=tiling)

    def warm_up(self) -> None:
        """Open all models and run each once: compiled kernels load with the first image.

        Raises:
            PnaError: A model cannot be opened.
        """
        for name in self.names:
            self.segment(np.zeros((64, 64, 3), np.uint8), name)
        refine_mask(
            bundled_mask_refiner(self._device), np.zeros((64, 64, 3), np.uint8), np.eye(64) > 0
        )

    def segment(self, image: Path | UInt8Array, name: str) -> Result:
        """Segment an image by one of the models.

        Raises:
            PnaError: The image cannot be read, or is too large.
        """
        array = _read_within(image, "segment")
        tiling = WHOLE if array.shape[0] * array.shape[1] <= WHOLE_PIXELS else TILES
        predictor = self.predictor(name, tiling)
        start = time.perf_counter()
        with timed_parts(predictor.model) as seconds:
            prediction = predictor(array, stages=_has_stages(predictor), scores=True)
        seconds["all"] = time.perf_counter() - start
        assert prediction.scores is not None
        confidence = (255 * prediction.scores.max(axis=0)).round().astype(np.uint8)
        return Result(
            name,
            prediction.image,
            prediction.label_space,
            prediction.stages or [prediction.labels],
            confidence,
            seconds,
            tiling,
        )

    def refine(self, photo: Path, mask: Path, *, strength: float, radius: int | None) -> Refined:
        """Refine the mask of a photo.

        Raises:
            PnaError: One of the two cannot be read or is too large, or they do not fit together.
        """
        config = RefineConfig(strength=strength, radius=radius)
        image = _read_within(photo, "refine")
        with _naming(mask), _naming(photo), warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # the page says itself what they would
            given = fit_to_image(read_mask(mask), image.shape[:2], photo)
        start = time.perf_counter()
        network = bundled_mask_refiner(self._device)
        mask_array, wrong = refine_mask(network, image, given.array, config)
        return Refined(image, given, mask_array, wrong, time.perf_counter() - start)

    def similar(self, result: Result, point: tuple[int, int]) -> Neighborhood:
        """Draw the neighborhoods of a pixel (x, y) at each stage.

        Raises:
            PnaError: The model is not refined by PNA, or the pixel lies outside of the image.
        """
        predictor = self.predictor(result.model)
        image, (x, y) = result.image, point
        H, W = image.shape[:2]
        if result.tiling.tile is not None:
            # Around the pixel alone: as much as a tile, which the model saw, too.
            height, width = result.tiling.tile
            top = min(max(0, y - height // 2), max(0, H - height))
            left = min(max(0, x - width // 2), max(0, W - width))
            image, x, y = image[top : top + height, left : left + width], x - left, y - top
        found = predictor(np.ascontiguousarray(image), similar=(x, y)).similarity
        assert found is not None
        strides = ", ".join(f"{one.stride:g}" for one in found)
        text = (
            f"Pixel ({point[0]}, {point[1]}): what it gathers from at strides {strides}; the "
            "brighter a cell, the more it gives."
        )
        return Neighborhood(similarity_figure(image, (x, y), found), text)


@contextmanager
def timed_parts(model: nn.Module) -> Iterator[dict[str, float]]:
    """Measure the seconds of a model's parts; several runs, as of tiles, add up.

    Yields:
        Seconds by part: "features", and "P0" to "Pn" where the model has them.
    """
    seconds: dict[str, float] = {}
    starts: dict[str, float] = {}

    def begin(name: str) -> None:
        starts[name] = time.perf_counter()

    def end(name: str) -> None:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - starts.pop(name)

    hooks = []
    for name, part in _parts(model):
        hooks.append(part.register_forward_pre_hook(lambda *_, name=name: begin(name)))
        hooks.append(part.register_forward_hook(lambda *_, name=name: end(name)))
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    parts = [("features", "encoder"), ("features and P0", "base"), ("P0", "coarse")]
    found = [(title, getattr(model, name, None)) for title, name in parts]
    stages = getattr(getattr(model, "refiner", None), "stages", None)
    found += [(f"P{number}", stage) for number, stage in enumerate(stages or (), start=1)]
    return [(title, part) for title, part in found if isinstance(part, nn.Module)]


def _read_within(image: Path | UInt8Array, command: str) -> UInt8Array:
    """Read an image that is not too large for the page."""
    with _naming(image):
        array = read_image(image)
    H, W = array.shape[:2]
    if H * W > MOST_PIXELS:
        raise PnaError(
            f"the image has {W} x {H} pixels; this page takes up to {MOST_PIXELS:,}. On the "
            f"command line `pna {command}` takes any size"
        )
    return array


@contextmanager
def _naming(file: Path | UInt8Array) -> Iterator[None]:
    """Let errors say the name of a file alone, since its folder is the server's."""
    try:
        yield
    except PnaError as error:
        if not isinstance(file, Path):
            raise
        raise PnaError(str(error).replace(str(file), file.name)) from error


def _has_stages(predictor: Predictor) -> bool:
    return predictor.model.num_stages > 0
