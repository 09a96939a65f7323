"""Segment a raster of any size: block by block, in bounded memory, resumed where it was killed."""

import shutil
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pna.data.images import UInt8Array
from pna.data.raster import Raster, Scale, open_bands
from pna.errors import PnaError
from pna.inference import segment
from pna.inference.devices import Device, find_device
from pna.inference.progress import Pace, Progress
from pna.inference.raster.blocks import Block, plan_blocks
from pna.inference.raster.memory import parse_memory, plan_memory
from pna.inference.raster.parts import Parts
from pna.inference.raster.write import (
    POLYGON_DRIVERS,
    check_polygons,
    small_cache,
    tiled_copy,
    write_labels,
    write_polygons,
    write_scores,
)
from pna.inference.runs import fingerprint
from pna.inference.tiling import WHOLE, TilingConfig
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.segmenter import BaseSegmenter


@dataclass(frozen=True)
class RasterReport:
    """What a run wrote.

    Attributes:
        labels: The file of the label map.
        scores: The file of the probabilities, if they were asked for.
        polygons: The file of the polygons, if they were asked for.
        pixels: Pixels of each class that occurs, by name, most first; nodata is not counted.
        size: Height and width.
        tile: Height and width of a tile.
        num_blocks: Number of blocks.
        num_found: Those of them that an earlier run had finished.
        num_polygons: Number of polygons.
        seconds: What the run took.
    """

    labels: Path
    scores: Path | None
    polygons: Path | None
    pixels: dict[str, int]
    size: tuple[int, int]
    tile: tuple[int, int]
    num_blocks: int
    num_found: int
    num_polygons: int
    seconds: float


@dataclass(frozen=True)
class BlockJob:
    """What a process needs, beside the model, to segment blocks of a raster; it can be pickled.

    Attributes:
        source: The raster, or a copy of it whose windows can be read in any order.
        bands: As for `open_for`.
        scale: Likewise.
        parts: The folder of finished blocks.
        tiling: Tile, overlap and flip.
        scores: Whether probabilities are kept, too.
    """

    source: Path
    bands: Sequence[int] | None
    scale: Scale | Sequence[Scale] | None
    parts: Parts
    tiling: TilingConfig
    scores: bool

    def compute(self, model: BaseSegmenter, blocks: Iterable[Block]) -> Generator[Block]:
        """Segment blocks and keep each as soon as it is done: a run that is killed goes on."""
        with (
            small_cache(),
            open_for(model, self.source, bands=self.bands, scale=self.scale) as source,
        ):
            for block in blocks:
                if not self.parts.has(block):
                    segmented = _segment(model, source, block, self.tiling, self.scores)
                    self.parts.write(block, *segmented)
                yield block


Distribute = Callable[[BlockJob, Sequence[Block]], Generator[object]]
"""Has blocks segmented, somewhere, and returns something for each as soon as it is done."""


def segment_raster(
    model: BaseSegmenter,
    path: str | Path,
    out: str | Path,
    *,
    device: Device | None = None,
    memory: int | str | None = None,
    tiling: TilingConfig = WHOLE,
    bands: Sequence[int] | None = None,
    scale: Scale | Sequence[Scale] | None = None,
    scores: bool = False,
    polygons: str | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    distribute: Distribute | None = None,
) -> RasterReport:
    """Segment a raster, and write the label map at the raster's place on the earth.

    Finished blocks lie in OUT/.NAME-parts until all are there. A run that was killed goes on from
    them, if it is started as before. The folder is removed at the end.

    Args:
        model: Any segmenter; moved to the device, set to evaluation mode. An `inference_size` is
            left aside: a raster keeps its resolution.
        path: The raster; see `pna.data.raster`.
        out: The folder of the results, made if it is not there: NAME_labels.tif, a cloud-optimized
            GeoTIFF with overviews, colors, and 255 where there is no data.
        device: As for `Predictor`.
        memory: What the process may take, such as "2GB", or bytes; on a GPU, what it may take
            there. Tile and block are chosen by it. None is 4 GB, or 2 GB more than the process
            holds already, if that is more.
        tiling: Overlap and flip; and a tile, if it is to have a certain size.
        bands: See `pna.data.raster.Raster`; by default those of the model, if it names its own.
        scale: Likewise.
        scores: Also write NAME_scores.tif, a band for each class, probabilities in 255ths.
        polygons: "gpkg" or "geojson" also writes NAME_labels.gpkg or .geojson.
        progress: Called before the first block and after each.
        distribute: Has the blocks segmented by other processes (`pna.cluster`); None does it here.

    Raises:
        MissingFileError: There is no such file.
        PnaError: The raster cannot be read, or it has to be said how; the memory does not suffice;
            several scales are asked for; or OUT holds a part of another run.

    Example:
        >>> import pna
        >>> from tempfile import mkdtemp
        >>> from PIL import Image
        >>> file = Path(mkdtemp()) / "scene.tif"
        >>> Image.new("RGB", (300, 200)).save(file)
        >>> report = pna.segment_raster(pna.load("voc-lite"), file, file.parent / "out")
        >>> report.labels.name, report.size, report.num_blocks
        ('scene_labels.tif', (200, 300), 1)
    """
    begin = time.perf_counter()
    path, out = Path(path), Path(out)
    if tiling.scales != (1.0,):
        raise PnaError(f"a raster is run at its own size alone, got scales {tiling.scales}")
    if polygons is not None and f".{polygons}" not in POLYGON_DRIVERS:
        raise PnaError(f"expected polygons as gpkg or geojson, got {polygons!r}")
    limit = parse_memory(memory) if isinstance(memory, str) else memory
    target = find_device(device)
    model = model.to(target).eval()
    with ExitStack() as stack:
        stack.enter_context(small_cache())
        raster = stack.enter_context(open_for(model, path, bands=bands, scale=scale))
        folder, stat = out / f".{path.stem}-parts", path.stat()
        run = {
            "raster": [str(path.resolve()), stat.st_size, stat.st_mtime_ns],
            "model": fingerprint(model),
            "tiling": [tiling.tile, tiling.overlap, tiling.flip],
            "bands": raster.bands,
            "scale": raster.scale,
            "scores": scores,
        }
        size = raster.height, raster.width
        # Of a pixel of a block: values as read, scaled and filled, masks, labels, probabilities.
        of_channel = 4 + (12 if raster.scale else 3)
        block_bytes = of_channel * raster.channels + 8 + (model.num_classes if scores else 0)
        check_polygons(raster, polygons)
        parts = Parts(
            folder,
            run,
            partial(
                plan_memory,
                model,
                target,
                limit,
                size,
                tile=tiling.tile,
                flip=tiling.flip,
                block_bytes=block_bytes,
            ),
        )
        stack.callback(parts.close)
        blocks = plan_blocks(size, parts.tile, tiling.overlap, parts.block)
        missing = [block for block in blocks if not parts.has(block)]
        source = path
        if missing and not raster.is_random_access:
            source = folder / "image.tif"
            if not source.exists():
                tiled_copy(path, source)
        own = TilingConfig(tile=parts.tile, overlap=tiling.overlap, flip=tiling.flip)
        job = BlockJob(source.absolute(), bands, scale, parts, own, scores)

        pace = Pace(len(blocks), found=len(blocks) - len(missing))
        progress(pace.after(0))
        # Closed at once if the run is stopped, and with it the file.
        with closing(
            distribute(job, missing) if distribute else job.compute(model, missing)
        ) as finished:
            for done, _ in enumerate(finished, start=1):
                progress(pace.after(done))
        # All beside the blocks first: the results appear together, when the last is complete.
        written = _write(raster, blocks, parts, model.labels, own, scores, polygons)
        files = [written.labels, written.scores, written.polygons]
        labels, score_file, polygon_file = (
            None if file is None else file.replace(out / file.name) for file in files
        )
        shutil.rmtree(folder)
    assert labels is not None
    return RasterReport(
        labels=labels,
        scores=score_file,
        polygons=polygon_file,
        pixels=written.pixels,
        size=size,
        tile=parts.tile,
        num_blocks=len(blocks),
        num_found=len(blocks) - len(missing),
        num_polygons=written.num_polygons,
        seconds=time.perf_counter() - begin,
    )


class _Written(NamedTuple):
    """Results beside the blocks: files, pixels of each class, and the number of polygons."""

    labels: Path
    scores: Path | None
    polygons: Path | None
    pixels: dict[str, int]
    num_polygons: int


def _write(
    raster: Raster,
    blocks: Sequence[Block],
    parts: Parts,
    names: LabelSpace,
    tiling: TilingConfig,
    scores: bool,
    polygons: str | None,
) -> _Written:
    """Write the results of finished blocks beside them."""
    stem, num_polygons = raster.path.stem, 0
    label_file = parts.folder / f"{stem}_labels.tif"
    pixels = write_labels(
        label_file, raster, blocks, lambda block: parts.read(block, "labels"), names, tiling
    )
    score_file = polygon_file = None
    if scores:
        score_file = parts.folder / f"{stem}_scores.tif"
        write_scores(score_file, raster, blocks, lambda block: parts.read(block, "scores"), names)
    if polygons is not None:
        polygon_file = label_file.with_suffix(f".{polygons}")
        num_polygons = write_polygons(polygon_file, label_file, names)
    return _Written(label_file, score_file, polygon_file, pixels, num_polygons)


def open_for(
    model: BaseSegmenter,
    path: Path,
    *,
    bands: Sequence[int] | None = None,
    scale: Scale | Sequence[Scale] | None = None,
) -> Raster:
    """Open a raster to read what a model takes.

    Args:
        model: The model.
        path: The file.
        bands: Numbers of bands; None takes those that the model names, or RGB.
        scale: Values that become 0 and 1; None takes the model's, or is for 8 bits.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It cannot be read, or it has to be said how.
    """
    if model.bands is not None:
        return open_bands(path, model.bands, numbers=bands, scale=scale)
    return Raster(path, bands=bands, scale=scale, channels=len(model.mean))


@torch.inference_mode()
def _segment(
    model: BaseSegmenter, source: Raster, block: Block, tiling: TilingConfig, scores: bool
) -> tuple[UInt8Array, UInt8Array | None]:
    """Return labels (h, w) of a block, and its probabilities (K, h, w) in 255ths or None."""
    labels = np.full(block.size, IGNORE_INDEX, np.uint8)
    kept = np.zeros((model.num_classes, *block.size), np.uint8) if scores else None
    image, valid = source.read(block.source)
    # The block inside of what its tiles cover.
    top, left = (part.start for part in block.source)
    height, width = block.size
    rows = slice(block.rows.start - top, block.rows.start - top + height)
    cols = slice(block.cols.start - left, block.cols.start - left + width)
    if not valid[rows, cols].any():
        return labels, kept
    for done, (values,) in segment.bands(model, _fill(model, image, valid), tiling, stages=False):
        start, stop = max(done.start, rows.start), min(done.stop, rows.stop)
        if start >= stop:
            continue
        part = values[0, :, start - done.start : stop - done.start, cols]  # (K, rows, width)
        target = slice(start - rows.start, stop - rows.start)
        labels[target] = part.argmax(dim=0).to(torch.uint8).cpu().numpy()
        if kept is not None:
            kept[:, target] = (255 * part).round_().to(torch.uint8).cpu().numpy()
    is_empty = ~valid[rows, cols]
    labels[is_empty] = IGNORE_INDEX
    if kept is not None:
        kept[:, is_empty] = 0
    return labels, kept


def _fill(model: BaseSegmenter, image: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> Tensor:
    """Return (1, C, h, w); where there is no data, the mean color, which the network sees as 0."""
    mean = model.mean.cpu().numpy()  # (C, 1, 1)
    if image.dtype == np.uint8:
        mean = (255 * mean).round().astype(np.uint8)
    return torch.from_numpy(np.where(valid, image, mean).astype(image.dtype, copy=False))[None]
