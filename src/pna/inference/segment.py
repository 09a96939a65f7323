"""Run a model on images and take the arg max of every stage, in bounded memory.

`stage_labels` serves both `Predictor` and `pna.evaluate`, so the label maps that are drawn are the
ones that are scored. Logits at the size of an image are by far the largest tensors here (21 classes
at 2448x2448 are 503 MB), so they exist for one stage at a time and only until their arg max is
taken:

| `TilingConfig` | memory beside the network's own |
|---|---|
| whole | the logits of one stage at the image's size |
| tiles, one scale | the sums of one row of tiles, for each stage; the image may be of any height |
| several scales, or whole with flip | the sums of every stage at the image's size |

A model with an `inference_size` sees images resized to it; its logits, or the blended probabilities
of tiles, are resized back. Tiles then need the sums of every stage too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pna.inference.tiling import WHOLE, TilingConfig, tile_starts, tile_weights
from pna.model.resize import resize
from pna.model.segmenter import BaseSegmenter, SegmenterOutput, StageSimilarity

# Rows whose softmax is taken at once: over all rows it would hold three copies of the logits.
_SOFTMAX_ROWS = 256


@dataclass(frozen=True, eq=False)
class StageLabels:
    """Label maps of a batch at the size of its images.

    Attributes:
        final: (B, H, W) uint8 on the model's device, the arg max of the model's output.
        stages: P0 (the coarse output) to Pn, each like `final`, which is the last of them; empty
            unless asked for.
        scores: (B, K, H, W) float32 on the CPU, the probabilities behind `final`; None unless asked
            for.
    """

    final: Tensor
    stages: list[Tensor]
    scores: Tensor | None


def run_model(model: BaseSegmenter, images: Tensor, *, stages: bool) -> SegmenterOutput:
    """Run a model on a batch, on its own device and in its own floating-point type.

    Args:
        model: Any segmenter.
        images: (B, 3, H, W) RGB, float in [0, 1] or uint8 in [0, 255], on any device.
        stages: Also return the logits of P1 to Pn.
    """
    output: SegmenterOutput = model(prepare(model, images), stages=stages)
    return output


def prepare(model: BaseSegmenter, images: Tensor) -> Tensor:
    """Bring images to [0, 1], and to the device and floating-point type of the model's weights.

    Args:
        model: Any segmenter.
        images: (B, 3, H, W) float in [0, 1] or uint8 in [0, 255], on any device.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return _unit(images)
    # To the device first: as uint8 the copy is a quarter as large.
    return _unit(images.to(weight.device)).to(weight.dtype)


def similarity(
    model: BaseSegmenter, images: Tensor, point: tuple[int, int]
) -> list[StageSimilarity]:
    """Return the attention weights of one pixel at each stage, at the size the model runs at.

    Args:
        model: Any segmenter with a refinement by PNA.
        images: (1, 3, H, W) as in `stage_labels`.
        point: (x, y) of a pixel of these images.

    Returns:
        As `BaseSegmenter.similarity`; `stride` counts pixels of these images.
    """
    (H, W), resized = images.shape[-2:], model.resize_images(images)
    height, width = resized.shape[-2:]
    if resized is images:
        return model.similarity(prepare(model, images), point=point)
    (x, y) = point
    place = int((x + 0.5) * width / W), int((y + 0.5) * height / H)
    found = model.similarity(prepare(model, resized), point=place)
    return [one._replace(stride=one.stride * H / height) for one in found]


def stage_labels(
    model: BaseSegmenter,
    images: Tensor,
    *,
    tiling: TilingConfig = WHOLE,
    stages: bool = True,
    scores: bool = False,
) -> StageLabels:
    """Label a batch of images, stage by stage.

    The caller chooses evaluation mode and `torch.inference_mode`. A model without refinement has
    one stage, P0, its output.

    Args:
        model: Any segmenter.
        images: (B, 3, H, W) RGB, float in [0, 1] or uint8 in [0, 255] (a quarter of the memory), on
            any device.
        tiling: Whole, sliding window, test-time augmentation.
        stages: Also return the maps of P0 to Pn.
        scores: Also return the probabilities of the final stage.
    """
    B, _, H, W = images.shape
    maps: list[Tensor] = []
    kept: Tensor | None = None
    for rows, parts in _finished_rows(model, images, tiling, stages):
        for stage, values in enumerate(parts):  # (B, K, rows, W)
            if stage == len(maps):
                maps.append(torch.empty(B, H, W, dtype=torch.uint8, device=values.device))
            # Bytes hold all classes: a label space has 255 at most.
            maps[stage][:, rows] = values.argmax(dim=1).to(torch.uint8)
        if not scores:
            continue
        if kept is None:
            kept = torch.empty(B, values.shape[1], H, W)
        for top in range(rows.start, rows.stop, _SOFTMAX_ROWS):
            end = min(top + _SOFTMAX_ROWS, rows.stop)
            part = values[..., top - rows.start : end - rows.start, :].float()
            # A whole image comes as logits; tiles and scales have been blended as probabilities.
            kept[..., top:end, :] = part.softmax(dim=1) if tiling.is_whole else part
    return StageLabels(maps[-1], maps if stages else [], kept)


def _finished_rows(
    model: BaseSegmenter, images: Tensor, tiling: TilingConfig, stages: bool
) -> Iterator[tuple[slice, Iterable[Tensor]]]:
    """Yield rows, and for each stage values (B, K, rows, W) there whose arg max is the label."""
    H, W = images.shape[-2:]
    resized = model.resize_images(images)
    if tiling.is_banded and resized is images:
        yield from bands(model, images, tiling, stages=stages)
    elif not tiling.is_whole:
        yield slice(0, H), blend(model, images, tiling, stages=stages)
    else:
        output = run_model(model, resized, stages=stages)
        if not stages:
            yield slice(0, H), [resize(output.logits, (H, W))]
            return
        small = [output.coarse, *output.stages]
        del output  # and with it the logits at the images' size
        size = resized.shape[-2:]
        yield slice(0, H), (resize(model.upsample(logits, size), (H, W)) for logits in small)


def blend(
    model: BaseSegmenter, images: Tensor, tiling: TilingConfig, *, stages: bool
) -> list[Tensor]:
    """Segment a batch at every scale of the model's size and average the probabilities.

    The sums are held at the images' size: 4 bytes for every class and pixel, of the final stage
    or, with `stages`, of each. The network itself is given one tile at a time.

    Args:
        model: Any segmenter.
        images: (B, 3, H, W) as in `stage_labels`.
        tiling: Tiles, scales and flip.
        stages: Return P0 to Pn, not the final stage alone.

    Returns:
        (B, K, H, W) float32 probabilities of each stage, on the model's device.
    """
    (H, W), resized = images.shape[-2:], model.resize_images(images)
    height, width = resized.shape[-2:]
    sums: list[Tensor] = []
    for scale in tiling.scales:
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        scaled = resized
        if size != (height, width):  # as training does: antialiased where an image shrinks
            scaled = F.interpolate(
                _unit(resized), size, mode="bilinear", align_corners=False, antialias=True
            )
        whole: list[Tensor] = []
        for rows, band in bands(model, scaled, tiling, stages=stages):
            for stage, part in enumerate(band):
                if stage == len(whole):
                    whole.append(part.new_empty(*part.shape[:2], *size))
                whole[stage][..., rows, :] = part
        parts = [resize(probabilities, (H, W)) for probabilities in whole]  # (B, K, H, W) each
        sums = parts if not sums else [a.add_(b) for a, b in zip(sums, parts, strict=True)]
    return [total.div_(len(tiling.scales)) for total in sums]


def bands(
    model: BaseSegmenter, images: Tensor, tiling: TilingConfig, *, stages: bool
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Segment a batch in tiles from top to bottom, at its own size.

    The sums are held for one row of tiles, however high the image is.

    Args:
        model: Any segmenter.
        images: (B, 3, H, W) as in `stage_labels`.
        tiling: Tiles and flip; scales are `blend`'s.
        stages: Return P0 to Pn, not the final stage alone.

    Yields:
        The rows that no later tile covers, and (B, K, rows, W) float32 probabilities of each stage
        there. They are views of the sums: use them before the next ones are drawn.
    """
    H, W = images.shape[-2:]
    tile = (H, W) if tiling.tile is None else (min(tiling.tile[0], H), min(tiling.tile[1], W))
    height, width = tile
    # Made with the first result, which has their device and number of stages.
    weight = weights = torch.empty(0)
    sums: list[Tensor] = []  # of weighted probabilities, (B, K, height, W) per stage
    tops = tile_starts(H, height, tiling.overlap)
    for top, end in zip(tops, [*tops[1:], H], strict=True):
        for left in tile_starts(W, width, tiling.overlap):
            cols = slice(left, left + width)
            crop = images[..., top : top + height, cols]
            for stage, part in enumerate(_probabilities(model, crop, tiling.flip, stages)):
                if stage == len(sums):
                    sums.append(part.new_zeros(*part.shape[:2], height, W))
                    if stage == 0:
                        weight = tile_weights(height, width, part.device)
                        weights = weight.new_zeros(height, W)
                sums[stage][..., cols] += part.mul_(weight)
            weights[:, cols] += weight
        done = end - top  # rows above the next tiles: complete
        yield slice(top, end), [total[..., :done, :].div_(weights[:done]) for total in sums]
        for total in (weights, *sums):
            # The next row of tiles starts `done` rows below: move what it shares to the top. One
            # row at a time, because source and target may overlap.
            for row in range(height - done):
                total[..., row, :] = total[..., row + done, :]
            total[..., height - done :, :] = 0


def _probabilities(
    model: BaseSegmenter, images: Tensor, flip: bool, stages: bool
) -> Iterator[Tensor]:
    """Yield the softmax (B, K, H, W) of each stage, one stage at full size at a time."""
    size = images.shape[-2:]

    def softmax(logits: Tensor) -> Tensor:
        # Without stages the final logits alone come, and have the images' size already.
        resized = model.upsample(logits, size) if stages else logits
        return resized.float().softmax(dim=1)

    runs = [_logits(model, images, stages)]
    if flip:
        runs.append(_logits(model, images.flip(-1), stages))
    for stage, logits in enumerate(runs[0]):
        part = softmax(logits)
        if flip:
            mirrored = softmax(runs[1][stage])
            # Probabilities are averaged, not logits: those of two runs have no common scale.
            part = part.add_(mirrored.flip(-1)).div_(2)
        yield part


def _logits(model: BaseSegmenter, images: Tensor, stages: bool) -> list[Tensor]:
    """Return the logits of P0 to Pn at their own sizes, or the final ones at the images' size."""
    output = run_model(model, images, stages=stages)
    return [output.coarse, *output.stages] if stages else [output.logits]


def _unit(images: Tensor) -> Tensor:
    """Return images in [0, 1]."""
    return images if images.is_floating_point() else images.float() / 255
