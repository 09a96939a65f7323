"""`Predictor`: images in any form, one at a time or a list, to label maps as plain arrays."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pna.bands import Band
from pna.data.images import ImageLike, UInt8Array, read_image, to_picture
from pna.data.reading import read_band_image
from pna.errors import PnaError, UnsupportedError
from pna.files import write_atomically
from pna.inference.devices import Device, find_device, is_out_of_memory
from pna.inference.segment import similarity, stage_labels
from pna.inference.tiling import WHOLE, TilingConfig
from pna.labels import LabelSpace
from pna.model.segmenter import BaseSegmenter, StageSimilarity

# Pixels of an image that is run whole: beyond it the smallest bundled model takes more than 30 GB
# (370 bytes a pixel, measured at 2448x2448), and a system without them kills the process.
LARGEST_WHOLE = 89_478_485  # Pillow's own limit

_HELD = 4  # batches of further images that an image waits for, for its own batch to be full

_USE_TILES = "run it in tiles: Predictor(..., tiling=TilingConfig(tile=(1024, 1024)))"


class ImageTooLargeError(PnaError):
    """An image does not fit into memory the way it is run; smaller tiles help."""


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class Prediction:
    """The result for one image: plain data on the CPU, which can be pickled.

    Attributes:
        image: (H, W, 3) uint8, the image as it was read: RGB and upright; a picture of three bands
            where the model takes others.
        labels: (H, W) uint8, the class of every pixel.
        label_space: Names and colors of the classes.
        stages: Label maps like `labels`, P0 to Pn; empty unless asked for.
        scores: (K, H, W) float32, the softmax over the classes; None unless asked for.
        similarity: For the chosen pixel, the attention weights of each stage, float32 on the CPU;
            None unless asked for.
    """

    image: UInt8Array
    labels: UInt8Array
    label_space: LabelSpace
    stages: list[UInt8Array]
    scores: npt.NDArray[np.float32] | None
    similarity: list[StageSimilarity] | None

    def save_scores(self, path: str | Path) -> None:
        """Write the probabilities: an .npz of `scores`, float16, and `classes`, their names.

        Three digits are enough for a probability, at half the size.

        Raises:
            PnaError: They were not asked for.
        """
        if self.scores is None:
            raise PnaError("there are no scores: ask for them, predictor(image, scores=True)")
        scores, classes = self.scores.astype(np.float16), np.array(self.label_space.classes)

        def save(beside: Path) -> None:
            np.savez_compressed(beside, allow_pickle=False, scores=scores, classes=classes)

        write_atomically(Path(path), save)


class _Image(NamedTuple):
    """An image to run.

    Attributes:
        pixels: (C, H, W) uint8, or float in [0, 1], on any device.
        shown: (H, W, 3) uint8, the picture of it.
    """

    pixels: Tensor
    shown: UInt8Array

    @property
    def kind(self) -> tuple[object, ...]:
        """What images of one batch share."""
        return self.pixels.shape, self.pixels.dtype, self.pixels.device


class Predictor:
    """Segments images with one model.

    Args:
        model: A segmenter; a bundled model's name or saved folder, as `pna.load` takes them; or a
            file of `pna.export_model`, NAME.onnx. A segmenter is not copied: it is moved to the
            device, set to evaluation mode, and left so. Images take its floating-point type, so
            `model.half()` and `model.bfloat16()` work. One with an `inference_size` sees images
            resized to it; `model.inference_size = None` runs them at their own size.
        device: Where to run, such as "cpu" or "cuda:1"; None takes CUDA where there is one, else
            the CPU.
        tiling: Whole images, or a sliding window where they are too large for the memory, and
            test-time augmentation.
        batch_size: Images of a list that run together where their sizes are equal, with so many
            times the memory. On a CPU it is no faster.

    Raises:
        PnaError: There is no such model, or no such device here; the batch is below 1.

    Example:
        >>> import numpy as np
        >>> import pna
        >>> predictor = pna.Predictor("voc-lite", device="cpu")
        >>> prediction = predictor(np.zeros((60, 80, 3), np.uint8), stages=True, scores=True)
        >>> prediction.labels.shape, len(prediction.stages), prediction.scores.shape
        ((60, 80), 5, (21, 60, 80))
    """

    def __init__(
        self,
        model: BaseSegmenter | str | Path,
        *,
        device: Device | None = None,
        tiling: TilingConfig = WHOLE,
        batch_size: int = 1,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise PnaError(f"expected batches of at least 1 image, got {batch_size=}")
        self.device = find_device(device)  # before a model is read: a wrong name ends it at once
        if isinstance(model, str | Path):
            from pna.inference.opening import open_model

            model = open_model(model, device=self.device)
        self.tiling = tiling
        self.batch_size = batch_size
        self.model = model.to(self.device).eval()

    @overload
    def __call__(
        self,
        image: ImageLike | Tensor,
        *,
        stages: bool = ...,
        similar: tuple[int, int] | None = ...,
        scores: bool = ...,
    ) -> Prediction: ...

    @overload
    def __call__(
        self,
        image: list[ImageLike | Tensor] | tuple[ImageLike | Tensor, ...],
        *,
        stages: bool = ...,
        similar: tuple[int, int] | None = ...,
        scores: bool = ...,
    ) -> list[Prediction]: ...

    def __call__(
        self,
        image: ImageLike | Tensor | list[ImageLike | Tensor] | tuple[ImageLike | Tensor, ...],
        *,
        stages: bool = False,
        similar: tuple[int, int] | None = None,
        scores: bool = False,
    ) -> Prediction | list[Prediction]:
        """Segment an image of any size from 1x1, or each of a list.

        Args:
            image: A path, the bytes of a file, a binary file object, a Pillow image, an array
                (H, W, 3) uint8 RGB (gray and alpha too, see `pna.data.images.read_image`), or a
                tensor (3, H, W) RGB, uint8 or float in [0, 1]. A model of other bands takes a path,
                which rasterio reads, or a tensor (C, H, W). A list or tuple of them gives a list;
                their sizes may differ.
            stages: Also return the label maps of P0 (coarse) to Pn; an ONNX file must hold them.
            similar: A pixel (x, y), from (0, 0) at the top left; also return the weights of its
                neighborhood at each stage.
            scores: Also return the probabilities of all classes, 4 K bytes a pixel.

        Raises:
            MissingFileError: There is no such file.
            ImageTooLargeError: The image is too large to be run whole, or memory did not suffice.
            PnaError: The image cannot be read, or `similar` lies outside of it.
        """
        if not isinstance(image, list | tuple):
            read = self._read(image, similar)
            return self._run([read], stages=stages, similar=similar, scores=scores)[0]
        results = {}
        for number, result in self.each(image, stages=stages, similar=similar, scores=scores):
            if isinstance(result, Exception):
                raise result
            results[number] = result
        return [results[i] for i in range(len(image))]

    def each(
        self,
        images: Iterable[ImageLike | Tensor],
        *,
        stages: bool = False,
        similar: tuple[int, int] | None = None,
        scores: bool = False,
    ) -> Iterator[tuple[int, Prediction | PnaError | OSError]]:
        """Segment many images, and go on after one that fails.

        Args:
            images: As in a call. They are read one by one, and few are held at a time.
            stages: As in a call.
            similar: As in a call.
            scores: As in a call.

        Yields:
            The number of an image, from 0, and its prediction, or the error in place of one. With a
            batch size above 1 the order is not that of the images.

        Raises:
            PnaError: `images` is one image.
            UnsupportedError: The model has no stages or no similarity to give.

        Example:
            >>> import numpy as np
            >>> import pna
            >>> predictor = pna.Predictor("voc-lite", device="cpu", batch_size=2)
            >>> image = np.zeros((60, 80, 3), np.uint8)
            >>> for number, result in predictor.each([image, "absent.jpg", image]):
            ...     print(number, type(result).__name__)
            1 MissingFileError
            0 Prediction
            2 Prediction
        """
        if isinstance(images, str | bytes | Path | Image.Image) or (
            isinstance(images, np.ndarray | Tensor) and images.ndim < 4
        ):
            raise PnaError(
                f"expected several images, got one ({type(images).__name__}): pass it as a list"
            )
        options = {"stages": stages, "similar": similar, "scores": scores}
        longest = _HELD * self.batch_size
        waiting: dict[tuple[object, ...], dict[int, _Image]] = {}  # by kind, until a batch is full
        for number, image in enumerate(images):
            try:
                read = self._read(image, similar)
            except (PnaError, OSError) as error:
                yield number, error
                continue
            waiting.setdefault(read.kind, {})[number] = read
            if len(waiting[read.kind]) == self.batch_size:
                yield from self._run_each(waiting.pop(read.kind), **options)
            # The first kind has the oldest image: it waits for few others.
            if waiting and number - next(iter(next(iter(waiting.values())))) >= longest:
                yield from self._run_each(waiting.pop(next(iter(waiting))), **options)
        for part in waiting.values():
            yield from self._run_each(part, **options)

    def _run_each(
        self, images: dict[int, _Image], **options: Any
    ) -> Iterator[tuple[int, Prediction | PnaError]]:
        try:
            results: Sequence[Prediction | PnaError] = self._run([*images.values()], **options)
        except UnsupportedError:  # as it would be for all others
            raise
        except ImageTooLargeError as error:
            if len(images) > 1:  # what is too much together may run alone
                for number, image in images.items():
                    yield from self._run_each({number: image}, **options)
                return
            results = [error]
        except PnaError as error:
            results = [error] * len(images)
        yield from zip(images, results, strict=True)

    def _read(self, image: ImageLike | Tensor, similar: tuple[int, int] | None) -> _Image:
        """Read an image, and check that it can be run."""
        read = _decode(image, len(self.model.mean), self.model.bands)
        height, width = read.shown.shape[:2]
        # Windows of coarse stages are larger than tiles, so similarity needs the whole image.
        is_run_whole = self.tiling.tile is None or similar is not None
        if is_run_whole and height * width > LARGEST_WHOLE:
            remedy = _USE_TILES if similar is None else "crop it around the pixel for `similar`"
            raise ImageTooLargeError(
                f"the image has {width} x {height} pixels, too many to be run whole (at most "
                f"{LARGEST_WHOLE:,}): {remedy}"
            )
        if similar is not None and not (0 <= similar[0] < width and 0 <= similar[1] < height):
            raise PnaError(
                f"the pixel (x, y) = {similar} lies outside the image of {width} x {height} "
                f"pixels: expected x in [0, {width - 1}] and y in [0, {height - 1}]"
            )
        return read

    def _run(
        self,
        images: Sequence[_Image],
        *,
        stages: bool,
        similar: tuple[int, int] | None,
        scores: bool,
    ) -> list[Prediction]:
        """Run images of one size and type together."""
        batch = torch.stack([image.pixels for image in images])
        try:
            with torch.inference_mode():
                output = stage_labels(
                    self.model, batch, tiling=self.tiling, stages=stages, scores=scores
                )
                near: list[list[StageSimilarity]] = []
                if similar is not None:
                    near = [similarity(self.model, one[None], similar) for one in batch]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            height, width = images[0].shown.shape[:2]
            count = "an image" if len(images) == 1 else f"{len(images)} images"
            raise ImageTooLargeError(
                f"the memory of {self.device} does not suffice for {count} of {width} x {height} "
                f"pixels, {self.tiling}: {_USE_TILES}, or smaller ones"
            ) from error

        def alone(maps: Tensor, i: int) -> npt.NDArray[Any]:
            # Not a part of a batch, which would keep all of it in memory.
            return (maps[i] if len(maps) == 1 else maps[i].clone()).cpu().numpy()

        return [
            Prediction(
                image=image.shown,
                labels=alone(output.final, i),
                label_space=self.model.labels,
                stages=[alone(labels, i) for labels in output.stages],
                scores=None if output.scores is None else alone(output.scores, i),
                # A clone made out here is an ordinary tensor, not one of inference mode.
                similarity=None
                if similar is None
                else [one._replace(weights=one.weights.clone().float().cpu()) for one in near[i]],
            )
            for i, image in enumerate(images)
        ]


def _decode(image: ImageLike | Tensor, channels: int, bands: Sequence[Band] | None) -> _Image:
    if not isinstance(image, Tensor):
        if bands is None and channels == 3:
            array = read_image(image)
            return _Image(torch.from_numpy(array).permute(2, 0, 1), array)
        if bands is None or not isinstance(image, str | Path):
            raise PnaError(
                f"the model takes images of {channels} channels: expected a tensor ({channels}, H, "
                f"W) in [0, 1]{' or the path of a raster' if bands else ''}, got "
                f"{type(image).__name__}"
            )
        planes, _ = read_band_image(Path(image), bands)
        return _Image(torch.from_numpy(planes), to_picture(planes, bands))
    image = image.detach().clone()  # a caller may fill it anew before it is run
    known = (1, 3) if channels == 3 else (channels,)
    if image.ndim != 3 or image.shape[0] not in known or 0 in image.shape:
        raise PnaError(
            f"expected a tensor ({channels}, H, W){' RGB' if channels == 3 else ''}, got "
            f"{tuple(image.shape)}; pass a batch as a list of its images: list(batch)"
        )
    image = image.expand(channels, -1, -1)  # gray becomes three equal channels, a view
    shown = image.cpu()
    if image.is_floating_point():
        low, high = (float(value) for value in image.aminmax())
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # false for NaN, too
            raise PnaError(
                f"expected a tensor of values in [0, 1], not normalized, got [{low:.3g}, "
                f"{high:.3g}]; the model normalizes images itself"
            )
    elif image.dtype != torch.uint8:
        raise PnaError(f"expected a tensor of uint8 or of floats in [0, 1], got {image.dtype}")
    if shown.is_floating_point():
        shown = shown.float()  # NumPy has no bfloat16
    return _Image(image, to_picture(shown.numpy(), bands))
