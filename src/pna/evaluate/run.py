"""The evaluation loop: whole pictures, one at a time, every stage scored in the same pass."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from pna.data import DataError, Sample, SegmentationDataset
from pna.evaluate.report import Report
from pna.metrics import SegmentationScores
from pna.model.segmenter import Segmenter
from pna.predict import Device, stage_labels


def evaluate(
    model: Segmenter,
    dataset: SegmentationDataset,
    *,
    model_name: str = "",
    device: Device | None = None,
    boundary_width: int = 3,
    limit: int | None = None,
    skip_bad: bool = False,
    progress: bool = True,
) -> Report:
    """Score a model on the untransformed pictures of a dataset.

    Pictures go through whole, one at a time and at their own size; scores are taken at the labels'
    own resolution. The coarse output is "P0", the refinement stages are "P1" to "Pn"; a model
    without stages has "P0" alone. The classes in the means are those of the dataset's label space.

    Args:
        model: Any segmenter. It runs in evaluation mode; each of its modules returns to the mode
            it was in.
        dataset: Gives `load(index)` and `labels`.
        model_name: What the report calls the model.
        device: Where to run; the model is moved there and stays. By default it stays where it is.
        boundary_width: Width of the boundary region of boundary IoU in pixels.
        limit: Score only the first `limit` pictures; None scores all.
        skip_bad: Whether samples that can't be read are left out, and listed in the report, instead
            of ending the evaluation.
        progress: Whether to draw a progress bar.

    Raises:
        ValueError: If model and dataset differ in their number of classes, or `limit` leaves
            nothing to score.
        DataError: If a sample can't be read, or with `skip_bad` none can.
    """
    _check_classes(model, dataset)
    num_pictures = _count(len(dataset), limit)
    if device is not None:
        model.to(device)
    where = _device_of(model)
    counts: dict[str, SegmentationScores] = {}
    unreadable: list[str] | None = [] if skip_bad else None
    console = Console(stderr=True)  # standard output is for results
    indices = track(range(num_pictures), "evaluate", console=console, disable=not progress)
    with _evaluation_mode(model), torch.inference_mode():
        for sample in _samples(dataset, indices, unreadable):
            labels = sample.labels.to(where)
            for name, prediction in _label(model, sample.picture.to(where)).items():
                if name not in counts:
                    counts[name] = SegmentationScores(
                        dataset.labels.num_classes,
                        scored=dataset.labels.scored,
                        boundary_width=boundary_width,
                    )
                counts[name].update(prediction, labels)
    return Report(
        dataset=type(dataset).__name__,
        model=model_name,
        labels=dataset.labels,
        stages={name: state.compute() for name, state in counts.items()},
        num_pictures=num_pictures - len(unreadable or ()),
        num_available=len(dataset),
        unreadable=tuple(unreadable or ()),
    )


def _samples(
    dataset: SegmentationDataset, indices: Iterable[int], unreadable: list[str] | None
) -> Iterator[Sample]:
    """Load samples; with a list for what is wrong with them, go on without those that fail."""
    num_read = 0
    for index in indices:
        try:
            sample = dataset.load(index)
        except DataError as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))
            continue
        num_read += 1
        yield sample
    if unreadable and not num_read:
        raise DataError(
            f"none of {len(unreadable)} samples can be read. The first: {unreadable[0]}"
        )


def _label(model: Segmenter, picture: Tensor) -> dict[str, Tensor]:
    maps = stage_labels(model, picture.unsqueeze(0)).stages
    return {f"P{stage}": labels[0] for stage, labels in enumerate(maps)}


def _check_classes(model: Segmenter, dataset: SegmentationDataset) -> None:
    expected, got = dataset.labels.num_classes, model.num_classes
    if got != expected:
        raise ValueError(
            f"the dataset ({dataset.labels.name}) has {expected} classes, the model has {got}; "
            "evaluate it on the dataset it was trained for, or create it with "
            f"num_classes={expected}"
        )


def _count(available: int, limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 picture, got {limit}")
    if available == 0:
        raise ValueError("the dataset holds no pictures, so there is nothing to score")
    return available if limit is None else min(limit, available)


def _device_of(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation and back, module by module: frozen parts of a model stay frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
