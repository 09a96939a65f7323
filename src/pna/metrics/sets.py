"""Scores of a whole set in one call: label maps in memory, or two folders of PNGs."""

import warnings
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pna.errors import MissingFileError, PnaError
from pna.metrics.confusion import LabelMap
from pna.metrics.scores import Scores, SegmentationScores


def evaluate(
    predictions: LabelMap | Iterable[LabelMap],
    labels: LabelMap | Iterable[LabelMap],
    num_classes: int,
    *,
    scored: Sequence[int] | None = None,
    boundary_width: int = 3,
) -> Scores:
    """Score label maps in memory.

    Args:
        predictions: Integers: one map (H, W), a stack (B, H, W), or any iterable of such; arrays
            or tensors.
        labels: The true maps, likewise; 255 is ignored.
        num_classes: Number of classes K.
        scored: Classes that may enter the means; None takes all of them.
        boundary_width: Width of the boundary region of boundary IoU in pixels.

    Raises:
        PnaError: If there are no maps, numbers or shapes differ, a map isn't of integers, or a
            class is out of range.

    Example:
        >>> import numpy as np
        >>> labels = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
        >>> prediction = np.array([[0, 1, 1, 1], [0, 0, 1, 0]])
        >>> scores = evaluate([prediction], [labels], num_classes=2)
        >>> round(scores.miou, 3), round(scores.pixel_accuracy, 3), scores.num_ignored
        (0.75, 0.857, 1)
    """
    state = SegmentationScores(num_classes, scored=scored, boundary_width=boundary_width)
    predicted, truths = _as_maps(predictions), _as_maps(labels)
    end: Any = object()
    # Pairwise, so that an iterable larger than the memory can be scored. The fill value is an
    # object of its own, because None may be a (wrong) map.
    for number, (prediction, truth) in enumerate(zip_longest(predicted, truths, fillvalue=end)):
        if prediction is end or truth is end:
            fewer, more = (
                ("predictions", "labels") if prediction is end else ("labels", "predictions")
            )
            raise PnaError(f"expected as many predictions as labels: {number} {fewer}, more {more}")
        state.update(prediction, truth)
    if state.confusion.sum() + state.num_ignored == 0:
        raise PnaError("expected at least one label map with a pixel, got none")
    _warn_of_labels(state)
    return state.compute()


def _warn_of_labels(state: SegmentationScores) -> None:
    """Warn of true maps whose score means nothing: a mask of 0 and 255 has one class."""
    num_occurring = int((state.confusion.sum(1) > 0).sum())
    if state.num_ignored and num_occurring < min(2, state.num_classes):
        warnings.warn(
            f"the true label maps hold {num_occurring or 'no'} class and {state.num_ignored} "
            "ignored pixels (255): if 255 is your foreground, write it as 1",
            stacklevel=3,
        )


def _as_maps(maps: LabelMap | Iterable[LabelMap]) -> Iterable[Any]:
    """Put a single map into a list; one of three axes is a stack, which `update` takes too."""
    return [maps] if hasattr(maps, "shape") else maps


def evaluate_folders(
    predictions: str | Path,
    labels: str | Path,
    num_classes: int,
    *,
    scored: Sequence[int] | None = None,
    boundary_width: int = 3,
) -> Scores:
    """Score a folder of label maps against a folder of true ones.

    Every true map needs a prediction of the same stem; other predictions are left out. The maps
    are images whose pixel values are class indices, grayscale or palette.

    Args:
        predictions: The folder of the predictions.
        labels: The folder of the true maps; 255 is ignored.
        num_classes: Number of classes K.
        scored: Classes that may enter the means; None takes all of them.
        boundary_width: Width of the boundary region of boundary IoU in pixels.

    Raises:
        PnaError: If a folder or a prediction is missing, a map can't be read, sizes differ, or a
            class is out of range; the message names the file.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_folder
        >>> from pna.labels import generic
        >>> masks = write_folder(mkdtemp(), generic(3)) / "masks"
        >>> evaluate_folders(masks, masks, 3).miou
        1.0
    """
    # Here, because reading images needs Pillow and arrays do not.
    from pna.data.pairs import files_by_stem
    from pna.data.reading import read_index_mask

    truths = files_by_stem(Path(labels), needed_for="the true label maps")
    if not truths:
        raise MissingFileError(f"no label maps in {labels}: expected images of class indices")
    state = SegmentationScores(num_classes, scored=scored, boundary_width=boundary_width)
    predicted = files_by_stem(Path(predictions), needed_for="a label map for each true one")
    for stem, truth in truths.items():
        if stem not in predicted:
            raise MissingFileError(
                f"no prediction for {truth}: expected {stem}.png in {predictions}"
            )
        try:
            state.update(read_index_mask(predicted[stem]), read_index_mask(truth))
        except PnaError as error:
            raise PnaError(f"{predicted[stem]} against {truth}: {error}") from error
    _warn_of_labels(state)
    return state.compute()
