"""Refine the mask of a raster of any size: part by part, in bounded memory, resumed if killed."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pna.data.images import UInt8Array
from pna.data.mask_raster import MaskRaster
from pna.data.raster import Raster, Scale
from pna.errors import PnaError
from pna.inference.masks import inside, plan_parts, refine_part
from pna.inference.progress import Pace, Progress
from pna.inference.raster.blocks import Block
from pna.inference.raster.parts import Parts
from pna.inference.raster.write import small_cache, tiled_copy, write_mask
from pna.labels import IGNORE_INDEX
from pna.refinement.masks import Part, RefineConfig
from pna.refinement.network import RefinesMasks


@dataclass(frozen=True)
class RefinedRaster:
    """What a refinement wrote.

    Attributes:
        mask: The file.
        size: Height and width.
        share_changed: Share of the pixels whose class changed, in [0, 1].
        num_blocks: Number of parts.
        num_found: Those of them that an earlier run had finished.
        guess: What was taken for granted about the mask, in words, or None.
    """

    mask: Path
    size: tuple[int, int]
    share_changed: float
    num_blocks: int
    num_found: int
    guess: str | None


def refine_raster(
    network: RefinesMasks,
    image: str | Path,
    mask: str | Path,
    out: str | Path,
    *,
    config: RefineConfig = RefineConfig(),
    bands: tuple[int, ...] | None = None,
    scale: Scale | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> RefinedRaster:
    """Sharpen the mask of a raster, and write it at its place on the earth.

    Parts of `config.core` pixels are refined one by one, with what they see around them; where a
    part has one class the network does not run. Finished parts lie in OUT/.NAME-parts until all are
    there. A run that was killed goes on from them, if it is started as before.

    Args:
        network: A mask refiner in evaluation mode; it runs on the device that it is on.
        image: The raster; see `pna.data.raster`.
        mask: One band of class numbers on the pixels of the image; see `pna.data.mask_raster`.
        out: The folder of the result, made if it is not there: NAME.tif, a cloud-optimized GeoTIFF
            of the values, type, colors and place of the mask.
        config: What may change. `classes` are places in the mask's values, ascending.
        bands: See `pna.data.raster.Raster`.
        scale: Likewise.
        progress: Called before the first part and after each.

    Raises:
        MissingFileError: There is no such file.
        PnaError: A file cannot be read, the two do not cover the same pixels, or OUT holds a part
            of another run.
    """
    image, mask, out = Path(image), Path(mask), Path(out)
    target = out / f"{mask.stem}.tif"
    if target.resolve() in (image.resolve(), mask.resolve()):
        raise PnaError(f"{target} is an input: choose another folder for the refined mask")
    with ExitStack() as stack:
        stack.enter_context(small_cache())
        source = stack.enter_context(Raster(image, bands=bands, scale=scale))
        given = stack.enter_context(MaskRaster(mask))
        given.check_place(source)
        size = source.height, source.width
        plan = enumerate(plan_parts(size, config))
        blocks = [Block(index, *core, seen) for index, (core, seen) in plan]
        folder = out / f".{mask.stem}-parts"
        run: dict[str, Any] = {
            name: [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
            for name, path in (("image", image), ("mask", mask))
        }
        run |= {"network": network.fingerprint, "bands": source.bands, "scale": source.scale}
        run |= asdict(config)
        kept = Parts(folder, run, lambda: ((config.core, config.core),) * 2)
        stack.callback(kept.close)
        missing = [block for block in blocks if not kept.has(block)]
        if missing and not source.is_random_access:
            copy = folder / "image.tif"
            if not copy.exists():
                tiled_copy(image, copy)
            source = stack.enter_context(Raster(copy, bands=bands, scale=scale))
        pace = Pace(len(blocks), found=len(blocks) - len(missing))
        progress(pace.after(0))
        for done, block in enumerate(missing, start=1):
            kept.write(block, _refine(network, source, given, block, config), None)
            progress(pace.after(done))
        changed = 0

        def read(block: Block) -> UInt8Array:
            nonlocal changed
            labels = kept.read(block, "labels")
            changed += int((labels != given.read((block.rows, block.cols))).sum())
            return labels

        file = folder / target.name
        write_mask(file, given, blocks, read)
        file.replace(target)
        shutil.rmtree(folder)
    return RefinedRaster(
        target,
        size,
        changed / (size[0] * size[1]),
        len(blocks),
        len(blocks) - len(missing),
        given.guess,
    )


@torch.inference_mode()
def _refine(
    network: RefinesMasks, source: Raster, given: MaskRaster, block: Block, config: RefineConfig
) -> UInt8Array:
    """Return the labels (h, w) of a block."""
    core = (block.rows, block.cols)
    inner = inside(core, block.source)
    mask = given.read(block.source)
    labels = mask[inner].copy()
    pixels, valid = source.read(block.source)
    if not valid[inner].any():
        return labels
    mask[~valid] = IGNORE_INDEX  # without an image no edge can be found
    part = Part.of(mask, "labels")
    decision = refine_part(network, _to_bytes(pixels, valid), part, part.masks, config)
    if decision is not None:
        decision.write(mask[inner], "labels", inner, labels)
    return labels


def _to_bytes(pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> UInt8Array:
    """Return an image (h, w, 3) of levels; gray where there is no data."""
    if pixels.dtype != np.uint8:
        pixels = (255 * pixels).round().astype(np.uint8)
    return np.where(valid, pixels, np.uint8(128)).transpose(1, 2, 0)
