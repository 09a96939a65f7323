"""How large tiles and blocks may be, by the memory that a run may take."""

import math
import re
import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.extras import require
from pna.inference.segment import run_model
from pna.model.segmenter import BaseSegmenter

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
# Longest first. Beyond the first, more of the surroundings help little and memory grows.
_TILES = (1024, 768, 512, 384, 256, 192, 128)
_PROBE = 384
_LARGEST_BLOCK = 8192
# Of each model and device that were measured: bytes for a pixel, and those taken before.
_Measured = dict[torch.device, tuple[float, float]]
_MEASURED: "WeakKeyDictionary[BaseSegmenter, _Measured]" = WeakKeyDictionary()
# What is planned stays below what may be taken: allocators keep more than is in use.
_SHARE = 0.8


def parse_memory(text: str) -> int:
    """Read an amount of memory.

    Args:
        text: Such as "2GB", "1.5 GB", "800MB" or a number of bytes; a thousand to the unit.

    Raises:
        PnaError: It is none, or less than a byte.

    Example:
        >>> parse_memory("1.5GB")
        1500000000
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", text.lower())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise PnaError(f"expected an amount of memory such as 2GB or 800MB, got {text!r}")
    return size


def plan_memory(
    model: BaseSegmenter,
    device: torch.device,
    memory: int | None,
    size: tuple[int, int],
    *,
    tile: tuple[int, int] | None = None,
    flip: bool = False,
    block_bytes: int = 16,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Choose tile and block by running the network once and measuring what it takes.

    A model is measured once in a process: memory that was freed but kept would hide what a second
    run takes, and rasters of one run get equal tiles.

    Args:
        model: On the device, in evaluation mode.
        device: Where it runs. The sums of tiles lie there, too.
        memory: Bytes for the whole process; on another device than the CPU, bytes there. None is
            4 GB, or 2 GB more than are held already, if that is more.
        size: Height and width of the raster.
        tile: Height and width of a tile where they are given; they are checked then.
        flip: Whether the mirrored image is run too, which keeps two results at once.
        block_bytes: What a pixel of a block takes, beside the sums: image, masks, results.

    Returns:
        Height and width of a tile in pixels, and of a block at most.

    Raises:
        PnaError: The memory does not suffice for the smallest tile, or for the one given.
    """
    fixed = model.size if isinstance(model, OnnxSegmenter) else None
    tile = tile or fixed
    height, width = tile or (_PROBE, _PROBE)
    probe = fixed or (min(_PROBE, height), min(_PROBE, width))
    measured = _MEASURED.setdefault(model, {})
    if device not in measured:
        measured[device] = _measure(model, device, probe)
    per_pixel, held = measured[device]
    if memory is None:
        memory = max(4 * 10**9, int(held) + 2 * 10**9)
    classes = model.num_classes
    # Of the network; of softmax and blending, which hold probabilities of a tile three times.
    per_pixel += 4 * classes * (3 + flip)
    tiles = [tile] if tile is not None else [(side, side) for side in _TILES]
    # Tiles that reach over the edge of a block are run for both blocks: at four tiles to a block's
    # side half as much again, at two more than three times as much.
    for least, given in [(least, given) for least in (4, 2) for given in tiles]:
        height, width = (min(length, side) for length, side in zip(size, given, strict=True))
        free = _SHARE * memory - held - height * width * per_pixel
        # One half for the block with what its tiles reach beyond it, as square as can be; one for
        # the sums of a row of tiles and their arg max.
        side = max(int(math.sqrt(max(free, 0) / 2 / block_bytes)), least * width)
        columns = min(int(free / 2 / (height * (4 * classes + 16))), side, _LARGEST_BLOCK + width)
        rows = int(free / 2 / (block_bytes * max(columns, 1)))
        rows = min(rows, _LARGEST_BLOCK + height)
        rows, columns = min(rows, size[0]), min(columns, size[1])
        if rows >= min(least * height, size[0]) and columns >= min(least * width, size[1]):
            return given, (max(rows - height, 1), max(columns - width, 1))
    height, width = (min(length, side) for length, side in zip(size, given, strict=True))
    needed = held + height * width * (per_pixel + 2 * (4 * classes + 16) + 4 * block_bytes)
    raise PnaError(
        f"tiles of {height}x{width} need about {needed / _SHARE / 1e9:.1f} GB ({held / 1e9:.1f} GB "
        f"are taken already), and {memory / 1e9:g} GB are allowed: allow more memory, or choose a "
        f"smaller {'model' if tile is None else 'tile'}"
    )


def _measure(
    model: BaseSegmenter, device: torch.device, size: tuple[int, int]
) -> tuple[float, float]:
    """Return the bytes that the network takes for a pixel, and those that are taken before."""
    images = torch.zeros(1, len(model.mean), *size, dtype=torch.uint8)
    small = images if isinstance(model, OnnxSegmenter) else images[..., :64, :64]

    def run(images: Tensor = images) -> None:
        with torch.inference_mode():
            run_model(model, images, stages=False)

    # What is loaded once, whatever the size, does not count for the pixels. A small image, because
    # freed memory that the process keeps would hide what the second run takes.
    run(small)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        peak = torch.cuda.max_memory_allocated(device)
    else:
        held, peak = _peak_while(run)
    return max(peak - held, 0) / (size[0] * size[1]), held


def _peak_while(work: Callable[[], None]) -> tuple[int, int]:
    """Return the memory of this process before some work, and the most while it ran."""
    process = require("psutil").Process()
    before = int(process.memory_info().rss)
    peak, is_done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_done.wait(0.002):
            peak = max(peak, int(process.memory_info().rss))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        is_done.set()
        watcher.join()
    return before, peak
