"""The classes of a model against those of a data set: by number and by name."""

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from pna.data import DataWarning, Sample, SegmentationDataset
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX, LabelSpace


def match_classes(own: LabelSpace, data: LabelSpace) -> tuple[LabelSpace, Sequence[int] | None]:
    """Compare the classes of a model with those of a data set, by number and by name.

    Args:
        own: The model's.
        data: The data set's.

    Returns:
        The classes to score; and, where the model has further ones, the number in them of each
        class of the data set.

    Raises:
        PnaError: If their numbers differ, or a class of one has another index in the other.
    """
    mine, theirs = _folded_names(own), _folded_names(data)
    is_named = not (own.is_generic or data.is_generic)
    if is_named and own.num_classes > data.num_classes and set(theirs) <= set(mine):
        numbers = [mine.index(name) for name in theirs]
        scored = tuple(sorted(numbers[c] for c in data.scored))
        return replace(own, scored=scored), numbers
    if own.num_classes != data.num_classes:
        raise PnaError(
            f"the dataset ({data.name}) has {data.num_classes} classes, the model has "
            f"{own.num_classes}; evaluate it on the dataset it was trained for, or create it "
            f"with num_classes={data.num_classes}"
        )
    _check_order(own, data)
    return data, None


def _check_order(own: LabelSpace, data: LabelSpace) -> None:
    """Compare the names of as many classes of a model and a data set.

    Raises:
        PnaError: If a class of one has another index in the other.
    """
    if own.is_generic or data.is_generic:
        return  # one of them has no names
    mine, theirs = _folded_names(own), _folded_names(data)
    for index, name in enumerate(theirs):
        # A class under another index scores as another class: never what was meant.
        if name in mine and mine.index(name) != index:
            raise PnaError(
                f"class {data.classes[index]!r} is {index} in the dataset ({data.name}) and "
                f"{mine.index(name)} in the model ({own.name}): give both the same "
                "classes in the same order"
            )
    differing = [index for index, name in enumerate(theirs) if mine[index] != name]
    if differing:
        named = ", ".join(
            f"class {index} is {own.classes[index]!r} in the model and "
            f"{data.classes[index]!r} in the dataset"
            for index in differing[:3]
        )
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        warnings.warn(
            f"model and dataset differ in the names of classes: {named}{more}; they are scored as "
            "the same class",
            DataWarning,
            stacklevel=4,
        )


def _folded_names(labels: LabelSpace) -> list[str]:
    """Return names without regard to case, spaces and how accents are composed."""
    names = (unicodedata.normalize("NFKC", name).casefold() for name in labels.classes)
    folded = ["".join(sign for sign in name if sign.isalnum()) for name in names]
    # Classes that differ in nothing else keep their names: "wall" and "wall?" are two.
    return folded if len(set(folded)) == len(folded) else list(labels.classes)


class Renumbered:
    """A data set whose labels have the numbers of a model's classes.

    Args:
        dataset: The data set.
        labels: The classes of the result.
        numbers: The number of each of the data set's classes in them.
    """

    def __init__(
        self, dataset: SegmentationDataset, labels: LabelSpace, numbers: Sequence[int]
    ) -> None:
        self.dataset, self.labels = dataset, labels
        self._table = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX)
        self._table[: len(numbers)] = torch.tensor(numbers)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample._replace(labels=self._table[sample.labels])
