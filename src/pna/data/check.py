"""Is a data set whole? Every file opened, everything that is wrong listed, the classes counted."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from pna.data.dataset import SegmentationDataset, check_sizes
from pna.data.errors import DataError
from pna.data.pairs import collect_missing
from pna.data.reading import read_picture
from pna.labels import IGNORE_INDEX

NUM_LABELS = IGNORE_INDEX + 1
Follow = Callable[[Iterable["Finding"], int], Iterable["Finding"]]


class Finding(NamedTuple):
    """What there is to say of one pair.

    Attributes:
        problems: What is wrong with it; a picture and its mask may both be.
        size: Height and width of the picture, if it can be read.
        pixels: Number of pixels of each label (256), all 0 if the mask can't be read.
    """

    problems: list[str]
    size: tuple[int, int] | None
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class SplitReport:
    """What a check found in one split.

    Attributes:
        split: Its name; None is all there is.
        dataset: Its pairs; None if the split isn't there.
        expected: Pictures it should have, as published; None if nobody says, or nobody asked.
        num_checked: Pairs that were opened.
        problems: All that is wrong.
        sizes: How often each size (height, width) occurs.
        pixels: Number of pixels of each label (256).
        pictures: Number of pictures in which each label occurs (256).
    """

    split: str | None
    dataset: SegmentationDataset | None
    expected: int | None
    num_checked: int
    problems: list[str]
    sizes: Counter[tuple[int, int]]
    pixels: NDArray[np.int64]
    pictures: NDArray[np.int64]

    @property
    def num_pairs(self) -> int:
        """Pictures found with their masks."""
        return 0 if self.dataset is None else len(self.dataset)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none if the split isn't there."""
        return () if self.dataset is None else self.dataset.labels.classes

    @property
    def shares(self) -> list[float]:
        """Share of each class in the labelled pixels, 0..1."""
        counts = self.pixels[: len(self.classes)]
        return [float(count) / max(1, int(counts.sum())) for count in counts]

    @property
    def ignored_share(self) -> float:
        """Share of the ignored pixels in all, 0..1."""
        return float(self.pixels[IGNORE_INDEX]) / max(1, int(self.pixels.sum()))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "split": self.split,
            "expected": self.expected,
            "num_pairs": self.num_pairs,
            "num_checked": self.num_checked,
            "problems": self.problems,
            "sizes": [[*size, count] for size, count in sorted(self.sizes.items())],
            "ignored_share": self.ignored_share,
            "classes": [
                {"name": name, "share": self.shares[index], "pictures": int(self.pictures[index])}
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
    """Checks one split of a data set: partners, sizes, labels, and how many pictures there are.

    Args:
        create: Makes the data set of this split.
        split: What the report calls it.
        expected: Pictures it should have; None takes any number.
        limit: Open so many pairs, evenly spread; None opens all.
        num_workers: Processes that read; 0 reads in this one.
        follow: Passes findings on as they come, given how many to expect: for a progress bar.
    """
    try:
        with collect_missing() as problems:
            dataset = create()
    except DataError as error:  # not there at all
        return _summed(split, None, expected, [*problems, str(error)], [])
    num_pairs = len(dataset)
    if expected is not None and num_pairs != expected:
        problems.insert(
            0, f"expected {expected} pictures with masks, as published; found {num_pairs}"
        )
    inspection = _Inspection(dataset, spread(num_pairs, limit))
    findings: Iterable[Finding] = DataLoader(
        inspection,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
    )
    if follow is not None:
        findings = follow(findings, len(inspection))
    return _summed(split, dataset, expected, problems, findings)


def spread(length: int, number: int | None) -> list[int]:
    """At most `number` indices below `length`, evenly spread; None takes all."""
    if number is None or number >= length:
        return list(range(length))
    return [index * length // number for index in range(number)]


def inspect(dataset: SegmentationDataset, index: int) -> Finding:
    """Opens a pair and notes whatever is wrong with it."""
    pair = dataset.pairs[index]
    problems: list[str] = []
    picture = labels = None
    try:
        picture = read_picture(pair.picture)
    except DataError as error:
        problems.append(str(error))
    try:
        labels = dataset.label_map(pair)
    except DataError as error:
        problems.append(str(error))
    if picture is not None and labels is not None:
        try:
            check_sizes(pair, picture, labels)
        except DataError as error:
            problems.append(str(error))
    size = None if picture is None else (picture.shape[0], picture.shape[1])
    pixels = np.bincount([] if labels is None else labels.ravel(), minlength=NUM_LABELS)
    return Finding(problems, size, pixels)


class _Inspection(Dataset[Finding]):
    """What `inspect` finds, by place."""

    def __init__(self, dataset: SegmentationDataset, indices: list[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Finding:
        return inspect(self.dataset, self.indices[place])


def _as_it_is(finding: Finding) -> Finding:
    return finding


def _summed(
    split: str | None,
    dataset: SegmentationDataset | None,
    expected: int | None,
    problems: list[str],
    findings: Iterable[Finding],
) -> SplitReport:
    """Adds up findings."""
    sizes: Counter[tuple[int, int]] = Counter()
    pixels, pictures = np.zeros((2, NUM_LABELS), dtype=np.int64)
    problems = [*problems]
    num_checked = 0
    for finding in findings:
        num_checked += 1
        problems += finding.problems
        sizes.update([finding.size] if finding.size else [])
        pixels += finding.pixels
        pictures += finding.pixels > 0
    return SplitReport(split, dataset, expected, num_checked, problems, sizes, pixels, pictures)
