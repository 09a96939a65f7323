"""How large tiles and blocks may be, by the memory that a run may take."""

import re
import threading
from collections.abc import Callable

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
    memory: int,
    tile: tuple[int, int] | None = None,
    flip: bool = False,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Choose tile and block by running the network once and measuring what it takes.

    Args:
        model: On the device, in evaluation mode.
        device: Where it runs. The sums of tiles lie there, too.
        memory: Bytes for the whole process; on another device than the CPU, bytes there.
        tile: Height and width of a tile where they are given; they are checked then.
        flip: Whether the mirrored image is run too, which keeps two results at once.

    Returns:
        Height and width of a tile in pixels, and of a block at most.

    Raises:
        PnaError: The memory does not suffice for the smallest tile, or for the one given.
    """
    fixed = model.size if isinstance(model, OnnxSegmenter) else None
    tile = tile or fixed
    height, width = tile or (_PROBE, _PROBE)
    probe = fixed or (min(_PROBE, height), min(_PROBE, width))
    per_pixel, held = _measure(model, device, probe)
    classes = model.num_classes
    choices = [tile] if tile is not None else [(side, side) for side in _TILES]
    for height, width in choices:
        # Of the network; of softmax and blending, which hold probabilities of a tile three times.
        run = height * width * (per_pixel + 4 * classes * (3 + flip))
        free = _SHARE * memory - held - run
        # Each column of a block: sums and their arg max, and pixels of the block itself.
        side = int(free / (height * (4 * classes + 16) + 16 * height))
        side = min(side, _LARGEST_BLOCK)
        # The pixels of a block: the image, its validity, labels.
        while side > width and side * side * 20 > free / 2:
            side = int(0.9 * side)
        if side >= 2 * width:
            return (height, width), (side - width, side - width)
    height, width = choices[-1]
    needed = held + height * width * (per_pixel + 4 * classes * (3 + flip))
    needed += 2 * width * height * (4 * classes + 32)
    raise PnaError(
        f"tiles of {height}x{width} need about {needed / _SHARE / 1e9:.1f} GB ({held / 1e9:.1f} GB "
        f"are taken already, the network takes {per_pixel / 1e3:.1f} kB a pixel), and "
        f"{memory / 1e9:g} GB are allowed: allow more memory, or choose a smaller "
        f"{'model' if tile is None else 'tile'}"
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
