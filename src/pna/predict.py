"""From one picture to its label map: read, run, bring to the picture's size, take the arg max.

`stage_labels` does the last two steps for every stage and is what `pna.evaluate` scores, so what is
shown and what is measured can't drift apart. It is written for large pictures: logits at the size
of a picture are by far the largest tensors around (21 classes at 2448x2448 are 503 MB), so they
exist for one stage at a time and only until their arg max is taken. Tiles are blended a row of them
at a time, so a picture may be as high as it likes. Several scales, and a mirrored view of the whole
picture (`pna.views`), are blended at full size, and cost it for every stage that is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pna.data.pictures import PictureLike, UInt8Array, read_picture
from pna.labels import LabelSpace
from pna.model.segmenter import BaseSegmenter, StageSimilarity
from pna.views import WHOLE, Views, bands, blend

Device = str | torch.device

# Pixels of a picture that is looked at whole: beyond it the smallest bundled model takes more than
# 30 GB (370 bytes a pixel, from 2448x2448), and a system without them ends the process unasked.
LARGEST_WHOLE = 89_478_485  # Pillow's own limit

# Rows whose softmax is taken at once: over all rows it would hold three copies of the logits.
_BAND = 256


@dataclass(frozen=True)
class StageLabels:
    """Label maps of a batch at the size of its pictures.

    Attributes:
        final: (B, H, W) uint8, the arg max of the model's own output.
        stages: P0 (the coarse output) to Pn, each (B, H, W) uint8; the last one is `final`. Empty
            if only the final map was asked for.
        logits: Gives the logits (B, K, H, W) behind `final`; of several views, the logarithm of
            their mean probability.
    """

    final: Tensor
    stages: list[Tensor]
    logits: Callable[[], Tensor]


def stage_labels(
    model: BaseSegmenter, pictures: Tensor, *, stages: bool = True, views: Views = WHOLE
) -> StageLabels:
    """Label a batch of pictures, stage by stage.

    The caller chooses evaluation mode and `torch.inference_mode`. A model that has no refinement
    stages gives P0 alone: its output.

    Args:
        model: Any segmenter.
        pictures: (B, 3, H, W) float in [0, 1], on the model's device; for tiles at one scale uint8
            too, which takes a quarter of the memory.
        stages: Whether the maps of P0 to Pn are wanted besides the final one.
        views: How to look at each picture.
    """
    if views.is_banded:
        maps = _banded_labels(model, pictures, views, stages=stages)
        # Their size is what bands avoid, so the logits are computed anew if they are wanted.
        return StageLabels(
            maps[-1],
            maps if stages else [],
            lambda: blend(model, pictures, views, stages=False)[-1].log(),
        )
    if not views.is_whole:
        shares = blend(model, pictures, views, stages=stages)
        maps = [_arg_max(share) for share in shares]
        last = shares[-1]
        return StageLabels(maps[-1], maps if stages else [], lambda: last.log())
    size = (pictures.shape[-2], pictures.shape[-1])
    output = model(pictures, stages=True)
    final = _arg_max(output.logits)
    small = [output.coarse, *output.stages]  # each at its own stride, so small
    del output  # and with it the full-size logits
    maps = []
    if stages:
        maps = [_arg_max(model.upsample(logits, size)) for logits in small[:-1]]
        maps.append(final)
    return StageLabels(final, maps, lambda: model.upsample(small[-1], size))


def _banded_labels(
    model: BaseSegmenter, pictures: Tensor, views: Views, *, stages: bool
) -> list[Tensor]:
    B, _, H, W = pictures.shape
    maps: list[Tensor] = []
    for rows, shares in bands(model, pictures, views, stages=stages):
        for stage, share in enumerate(shares):
            if stage == len(maps):
                maps.append(torch.empty(B, H, W, dtype=torch.uint8, device=pictures.device))
            maps[stage][:, rows] = _arg_max(share)
    return maps


def _arg_max(logits: Tensor) -> Tensor:
    return logits.argmax(dim=1).to(torch.uint8)


@dataclass
class Prediction:
    """What a model says about one picture.

    Attributes:
        picture: (H, W, 3) uint8, the picture as the model saw it: RGB and upright.
        labels: (H, W) uint8, the class of every pixel.
        label_space: Names and colours of the classes.
        stages: Label maps like `labels`, P0 to Pn; empty unless asked for.
        similarity: Neighborhood weights of the chosen pixel, one entry a stage; None unless asked
            for.
    """

    picture: UInt8Array
    labels: UInt8Array
    label_space: LabelSpace
    stages: list[UInt8Array]
    similarity: Sequence[StageSimilarity] | None
    _compute_scores: Callable[[], npt.NDArray[np.float32]] = field(repr=False)

    @cached_property
    def scores(self) -> npt.NDArray[np.float32]:
        """(K, H, W) float32 softmax over the classes, computed when first asked for, then kept."""
        return self._compute_scores()


class Predictor:
    """Segments pictures with one model.

    Args:
        model: A segmenter, or what `pna.load` takes: a bundled model's name or a saved folder. It
            is moved to the device and set to evaluation mode, and stays there.
        device: Where to run; by default CUDA where there is one, else the CPU.
        views: How to look at each picture: whole, or in tiles where it is too large for memory.
    """

    def __init__(
        self,
        model: BaseSegmenter | str | Path,
        *,
        device: Device | None = None,
        views: Views = WHOLE,
    ) -> None:
        if isinstance(model, str | Path):
            from pna.model.checkpoints import load

            model = load(model)
        self.views = views
        self.device = default_device() if device is None else torch.device(device)
        self.model = model.to(self.device).eval()

    def __call__(
        self,
        picture: PictureLike,
        *,
        stages: bool = False,
        similar: tuple[int, int] | None = None,
    ) -> Prediction:
        """Segment one picture of any size from 1x1.

        Args:
            picture: A file, a Pillow image or an array, see `pna.data.pictures.read_picture`.
            stages: Also return the label maps of P0 (coarse) to Pn.
            similar: A pixel (x, y), from (0, 0) at the top left; also return how similar each
                stage holds it to its neighborhood.

        Raises:
            FileNotFoundError: If the file doesn't exist.
            ValueError: If the picture can't be read, is too large to be looked at whole, or
                `similar` lies outside it.
        """
        array = read_picture(picture)
        _check_size(array, self.views)
        if similar is not None:
            _check_point(similar, array.shape[1], array.shape[0])
        with torch.inference_mode():
            batch = to_batch(array, self.views).to(self.device)
            found = stage_labels(self.model, batch, stages=stages, views=self.views)
            similarity: Sequence[StageSimilarity] | None = None
            if similar is not None:
                similarity = self.model.similarity(to_batch(array).to(self.device), point=similar)
        return Prediction(
            picture=array,
            labels=_single(found.final),
            label_space=self.model.labels,
            stages=[_single(labels) for labels in found.stages],
            similarity=similarity,
            _compute_scores=lambda: _softmax(found.logits),
        )


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_batch(picture: UInt8Array, views: Views = WHOLE) -> Tensor:
    """Turn an (H, W, 3) uint8 picture into the (1, 3, H, W) that `stage_labels` takes.

    That is float32 in [0, 1]; for views that are done in bands uint8, tile by tile made float.
    """
    batch = torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0)
    return batch if views.is_banded else batch.float() / 255


def _softmax(logits: Callable[[], Tensor]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        full = logits()[0]
        scores = np.empty(tuple(full.shape), dtype=np.float32)
        for top in range(0, full.shape[-2], _BAND):
            band = full[:, top : top + _BAND].float().softmax(dim=0)
            scores[:, top : top + _BAND] = band.cpu().numpy()
    return scores


def _single(labels: Tensor) -> UInt8Array:
    array: UInt8Array = labels[0].cpu().numpy()
    return array


def _check_size(picture: UInt8Array, views: Views) -> None:
    height, width = picture.shape[:2]
    if views.tile is None and height * width > LARGEST_WHOLE:
        raise ValueError(
            f"the picture has {width} x {height} pixels, too many to be looked at whole (at most "
            f"{LARGEST_WHOLE:,}): look at it in tiles, for example --tile 1024,1024"
        )


def _check_point(point: tuple[int, int], width: int, height: int) -> None:
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"the pixel (x, y) = ({x}, {y}) lies outside the picture of {width} x {height} pixels: "
            f"expected x in [0, {width - 1}] and y in [0, {height - 1}]"
        )
