"""Suite `masks`: growth of time and memory of a mask refinement with image and classes.

Weights are random: they change no cost. The mask has compact objects side by side, one of each
class, that fill the image. CascadePSP refines one mask at a time, K classes take K times as long.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pna.inference.masks import refine_mask
from pna.lab.bench.charts import draw_growth
from pna.lab.bench.growth import growth_notes, growth_tables, measure_growth
from pna.lab.bench.report import Log, Report, Row
from pna.lab.masks.cascadepsp import CascadePSP
from pna.lab.masks.cascadepsp_steps import refine_with
from pna.lab.measure.timing import Call, quartiles, ratios
from pna.lab.report import NOTHING, Table, with_quartiles
from pna.refinement.network import create_mask_refiner

RIVAL = "CascadePSP, 1 class"


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        sides: Sides of the square images, in pixels.
        classes: Numbers of classes, the background not counted.
        rival_sides: Sides that CascadePSP runs on too: a call takes minutes.
        rounds: Measurements of each network at each size.
    """

    device: str
    sides: tuple[int, ...] = (512, 1024, 2048, 4288)
    classes: tuple[int, ...] = (1, 5, 21)
    rival_sides: tuple[int, ...] = (512,)
    rounds: int = 3


@dataclass(frozen=True)
class MaskWork:
    """The refinement of one mask.

    Attributes:
        classes: Their number; 0 is one class, refined by CascadePSP.
        side: Of the square image, in pixels.
        device: "cpu", "cuda" or "cuda:N".
    """

    classes: int
    side: int
    device: str

    def prepare(self) -> Call:
        """Build network, image and mask, and return the call that refines it."""
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (self.side, self.side, 3), np.uint8)
        if self.classes == 0:
            mask = make_objects(1, self.side) > 0
            rival = CascadePSP(weights=None).eval().to(self.device)
            return lambda: refine_with(rival, image, mask)
        objects = make_objects(self.classes, self.side)
        labels = objects > 0 if self.classes == 1 else objects
        network = create_mask_refiner(encoder_weights=None).eval().to(self.device)
        return lambda: refine_mask(network, image, labels)


def make_objects(number: int, side: int) -> npt.NDArray[np.uint8]:
    """Make a label map (side, side) of objects in a grid: rectangles on the background 0.

    Example:
        >>> make_objects(2, 6)
        array([[0, 0, 0, 0, 0, 0],
               [0, 1, 1, 0, 2, 2],
               [0, 1, 1, 0, 2, 2],
               [0, 0, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    per_row = int(np.ceil(np.sqrt(number)))
    place, inside = np.divmod(np.arange(side) * per_row, side)
    is_object = inside * 5 >= side  # the first fifth of each cell is background
    labels = 1 + place[:, None] * per_row + place
    labels[~(is_object[:, None] & is_object) | (labels > number)] = 0
    return labels.astype(np.uint8)


def measure(settings: Settings, log: Log) -> Report:
    """Measure memory and time of all numbers of classes at all sizes, and CascadePSP's."""
    numbers = {f"pna, {n} {'class' if n == 1 else 'classes'}": n for n in settings.classes}
    numbers[RIVAL] = 0

    def work_of(name: str, side: int) -> MaskWork | str:
        if name == RIVAL and side not in settings.rival_sides:
            return "minutes a call, see --rival-sides"
        return MaskWork(numbers[name], side, settings.device)

    rows = measure_growth(
        list(numbers), work_of, settings.sides, settings.rounds, settings.device, log
    )
    tables = growth_tables(rows, "one mask")
    return Report(
        rows,
        [*tables, _relative(rows, settings)],
        growth_notes(rows),
        partial(draw_growth, rows=rows),
    )


def _relative(rows: list[Row], settings: Settings) -> Table:
    """Make the table of times relative to CascadePSP's of the same round."""
    times = {(row["model"], row["side"]): row["rounds_ms"] for row in rows if "ms" in row}
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows if row["model"] != RIVAL):
        cells = []
        for side in settings.sides:
            mine, others = times.get((name, side)), times.get((RIVAL, side))
            if mine is None or others is None:
                cells.append(NOTHING)
            else:
                cells.append(with_quartiles(quartiles(ratios(mine, others))))
        lines.append((name, *cells))
    columns = ("model", *(f"{side}x{side}" for side in settings.sides))
    return Table("Time over that of CascadePSP for 1 class", columns, lines)
