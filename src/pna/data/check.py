"""The check of a data set: open every file, list every problem, count the classes."""

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset, check_sizes
from pna.data.errors import DataError, DataWarning
from pna.data.loader import read_in_order
from pna.data.pairs import collect_missing
from pna.data.reading import checked_labels
from pna.labels import IGNORE_INDEX, LabelSpace

NUM_LABELS = IGNORE_INDEX + 1
Follow = Callable[[Iterable["Finding"], int], Iterable["Finding"]]


class Finding(NamedTuple):
    """The check of one pair.

    Attributes:
        problems: All that is wrong with the image and its mask.
        size: Height and width of the image, if it can be read.
        pixels: Number of pixels of each label (256), all 0 if the mask can't be read.
    """

    problems: list[str]
    size: tuple[int, int] | None
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class SplitReport:
    """The check of one split.

    Attributes:
        split: Its name; None stands for all pairs.
        dataset: Its pairs; None if the split isn't there.
        expected: Images it should have, as published; None takes any number.
        num_checked: Pairs that were opened.
        problems: All that is wrong.
        sizes: How often each size (height, width) occurs.
        pixels: Number of pixels of each label (256).
        images: Number of images in which each label occurs (256).
    """

    split: str | None
    dataset: SegmentationDataset | None
    expected: int | None
    num_checked: int
    problems: list[str]
    sizes: Counter[tuple[int, int]]
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]

    @property
    def num_pairs(self) -> int:
        """Images found with their masks."""
        return 0 if self.dataset is None else len(self.dataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none if the split isn't there."""
        return () if self.dataset is None else self.dataset.labels.classes

    @property
    def shares(self) -> list[float]:
        """Share of each class in the labeled pixels, 0..1."""
        counts = self.pixels[: len(self.classes)]  # without the ignored ones
        return [float(count) / max(1, int(counts.sum())) for count in counts]

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels in all, 0..1."""
        return float(self.pixels[IGNORE_INDEX]) / max(1, int(self.pixels.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "split": self.split,
            "expected": self.expected,
            "num_pairs": self.num_pairs,
            "num_checked": self.num_checked,
            "problems": self.problems,
            "sizes": [[*size, count] for size, count in sorted(self.sizes.items())],
            "ignored_share": self.ignored_share,
            "classes": [
                {"name": name, "share": self.shares[index], "images": int(self.images[index])}
                for index, name in enumerate(self.classes)
            ],
        }


def check_split(
    create: Callable[[], SegmentationDataset],
    split: str | None,
    *,
    expected: int | None = None,
    limit: int | None = None,
    num_workers: int = 0,
    follow: Follow | None = None,
) -> SplitReport:
    """Check one split of a data set: partners, sizes, labels, and the number of images.

    Args:
        create: Makes the data set of this split.
        split: Name of the split in the report.
        expected: Images it should have; None takes any number.
        limit: Open so many pairs, evenly spread; None opens all.
        num_workers: Processes that read; 0 reads in this one.
        follow: Passes findings on as they come, given their number: for a progress bar.

    Example:
        >>> from functools import partial
        >>> from tempfile import mkdtemp
        >>> from pna.data import CamVid
        >>> from pna.data.synthetic import write_camvid
        >>> create = partial(CamVid, write_camvid(mkdtemp()), "val")
        >>> report = check_split(create, "val", expected=101)
        >>> report.num_checked, report.problems
        (2, ['expected 101 images with masks, as published; found 2'])
    """
    sizes: Counter[tuple[int, int]] = Counter()
    pixels, images = np.zeros((2, NUM_LABELS), dtype=np.int64)
    num_checked = 0
    dataset: SegmentationDataset | None = None
    # Warnings become problems of the report; a check has no other words for them.
    with warnings.catch_warnings(record=True) as remarks, collect_missing() as problems:
        warnings.simplefilter("always", DataWarning)
        try:
            dataset = create()
        except DataError as error:  # not there at all
            problems.append(str(error))
    problems += _data_warnings(remarks)
    if dataset is not None:
        if expected is not None and len(dataset) != expected:
            message = f"expected {expected} images with masks, as published; found {len(dataset)}"
            # First: a part that was not unpacked explains all the problems after it.
            problems.insert(0, message)
        chosen = spread(len(dataset), limit)
        findings = read_in_order(partial(inspect, dataset), chosen, num_workers=num_workers)
        for finding in findings if follow is None else follow(findings, len(chosen)):
            num_checked += 1
            problems += finding.problems
            sizes.update([finding.size] if finding.size else [])
            pixels += finding.pixels
            images += finding.pixels > 0
        # Over the whole split: a single mask may well hold one class, or none.
        remark = remark_on_labels(dataset.labels, pixels)
        if remark is not None and split not in dataset.withheld:
            problems.append(remark)
    return SplitReport(split, dataset, expected, num_checked, problems, sizes, pixels, images)


def spread(length: int, number: int | None) -> list[int]:
    """Return at most `number` indices below `length`, evenly spread; None takes all.

    Example:
        >>> spread(6, 3)
        [0, 2, 4]
    """
    if number is None or number >= length:
        return list(range(length))
    # In integers, so that it is the same on every machine.
    return [index * length // number for index in range(number)]


def inspect(dataset: SegmentationDataset, index: int) -> Finding:
    """Open a pair and collect all that is wrong with it."""
    pair = dataset.pairs[index]
    problems: list[str] = []
    # Image and mask apart, so that a damaged image does not hide what is wrong with its mask.
    image = labels = None
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", DataWarning)
        try:
            image, _ = dataset.read_planes(pair)
        except DataError as error:
            problems.append(str(error))
        problems += [f"image {pair.image}: {message}" for message in _data_warnings(remarks)]
    try:
        labels = checked_labels(dataset.read_mask(pair), pair.mask, dataset.labels)
        if image is not None:
            check_sizes(pair, image, labels)
    except DataError as error:
        problems.append(str(error))
    size = None if image is None else (image.shape[1], image.shape[2])
    pixels = np.bincount([] if labels is None else labels.ravel(), minlength=NUM_LABELS)
    return Finding(problems, size, pixels)


def remark_on_labels(labels: LabelSpace, pixels: Sequence[int] | NDArray[np.int64]) -> str | None:
    """Describe labels that hold nothing to learn or to score.

    Args:
        labels: The label space.
        pixels: Number of pixels of each label, 256 numbers.

    Returns:
        The fault and its remedy, or None. The known faults: the label space has one class; every
        pixel is ignored; one class and ignored pixels are all there is, as when black and white
        masks (0 and 255) are read as indices.

    Example:
        >>> from pna.labels import generic
        >>> remark_on_labels(generic(2), [5] + [0] * 254 + [3])[:50]
        "besides 255 (ignored) only class 'class_0' occurs,"
        >>> remark_on_labels(generic(2), [5, 2] + [0] * 253 + [3])
    """
    ignored = int(pixels[IGNORE_INDEX])
    present = [name for name, count in zip(labels.classes, pixels, strict=False) if count]
    if labels.num_classes == 1:
        return (
            f"label space {labels.name!r} has one class, {labels.classes[0]!r}, so every pixel is "
            "right whatever the network does: the background is a class of its own, name it too"
        )
    if not ignored or len(present) > 1:
        return None
    if not present:
        return (
            f"every pixel is ignored ({IGNORE_INDEX}), so there is nothing to learn or to score: "
            f"expected class indices 0..{labels.num_classes - 1} ({labels.name}) in the masks"
        )
    return (
        f"besides {IGNORE_INDEX} (ignored) only class {present[0]!r} occurs, so there is nothing "
        "to learn. In black and white masks white is a color and no index: read them as colors "
        "(masks: color) with the colors (0, 0, 0) and (255, 255, 255) in the label space"
    )


def warn_of_labels(dataset: SegmentationDataset, *, num_masks: int = 16) -> None:
    """Warn if some masks, evenly spread, hold nothing to learn; files that are bad are left out.

    Args:
        dataset: Its masks are read.
        num_masks: How many, at most.
    """
    pixels = np.zeros(NUM_LABELS, dtype=np.int64)
    for index in spread(len(dataset), num_masks):
        pair = dataset.pairs[index]
        with contextlib.suppress(DataError):  # training names it, or passes over it
            labels = checked_labels(dataset.read_mask(pair), pair.mask, dataset.labels)
            pixels += np.bincount(labels.ravel(), minlength=NUM_LABELS)
    # Together, not mask by mask: one image may well show one class.
    remark = remark_on_labels(dataset.labels, pixels)
    if remark is not None:
        number = min(len(dataset), num_masks)
        warnings.warn(f"in {number} masks {remark}", DataWarning, stacklevel=2)


def _data_warnings(remarks: Iterable[warnings.WarningMessage]) -> list[str]:
    return [str(remark.message) for remark in remarks if remark.category is DataWarning]
