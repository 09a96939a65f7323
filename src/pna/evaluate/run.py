"""The evaluation loop: pictures one at a time, every stage scored in the same pass.

Processes share the pictures out without repeating any, and add up counts, not scores: what N of
them find is what one finds, whatever N.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from pna.data import DataError, Sample, SegmentationDataset
from pna.evaluate.report import Report
from pna.evaluate.shares import Share, exchange
from pna.model.segmenter import BaseSegmenter
from pna.predict import Device, stage_labels
from pna.views import WHOLE, Views


def evaluate(
    model: BaseSegmenter,
    dataset: SegmentationDataset,
    *,
    model_name: str = "",
    device: Device | None = None,
    boundary_width: int = 3,
    limit: int | None = None,
    skip_bad: bool = False,
    progress: bool = True,
    views: Views = WHOLE,
    rank: int = 0,
    world_size: int = 1,
) -> Report:
    """Score a model on the untransformed pictures of a dataset.

    Pictures go through one at a time, whole and at their own size unless `views` says otherwise;
    scores are taken at the labels' own resolution. The coarse output is "P0", the refinement stages
    are "P1" to "Pn"; a model without stages has "P0" alone. The classes in the means are those of
    the dataset's label space.

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
        progress: Whether to draw a progress bar; the first process alone does.
        views: How to look at each picture: whole, in tiles, at several scales, mirrored too.
        rank: Which of the processes this is.
        world_size: Processes that share the pictures; each calls this function, with
            `torch.distributed` initialised, and each gets the report on all pictures.

    Raises:
        ValueError: If model and dataset differ in their number of classes, or `limit` leaves
            nothing to score.
        DataError: If a sample can't be read, or with `skip_bad` none can.
    """
    _check_classes(model, dataset)
    num_pictures = _count(len(dataset), limit)
    if device is not None:
        model.to(device)
    own = range(rank, num_pictures, world_size)
    bar = Console(stderr=True)  # standard output is for results
    indices = track(own, "evaluate", console=bar, disable=not progress or rank > 0)
    share = Share(dataset.labels, boundary_width)
    with _evaluation_mode(model), torch.inference_mode(), share.failing(world_size):
        for sample in _samples(dataset, indices, share.unreadable if skip_bad else None):
            _score(model, sample, views, share)
    total = exchange(share, world_size)
    if len(total.unreadable) == num_pictures:
        first = next(iter(total.unreadable.values()))
        raise DataError(f"none of {num_pictures} samples can be read. The first: {first}")
    return Report(
        dataset=type(dataset).__name__,
        model=model_name,
        labels=dataset.labels,
        stages={name: state.compute() for name, state in total.counts.items()},
        num_pictures=num_pictures - len(total.unreadable),
        num_available=len(dataset),
        unreadable=tuple(total.unreadable.values()),
        views=views,
    )


def _samples(
    dataset: SegmentationDataset, indices: Iterable[int], unreadable: dict[int, str] | None
) -> Iterator[Sample]:
    """Load samples; with a dict for what is wrong with them, go on without those that fail."""
    for index in indices:
        try:
            sample = dataset.load(index)
        except DataError as error:
            if unreadable is None:
                raise
            unreadable[index] = str(error)
            continue
        yield sample


def _score(model: BaseSegmenter, sample: Sample, views: Views, share: Share) -> None:
    where = _device_of(model)
    labels = sample.labels.to(where)
    maps = stage_labels(model, sample.picture.to(where).unsqueeze(0), views=views).stages
    for stage, prediction in enumerate(maps):
        share.update(f"P{stage}", prediction[0], labels)


def _check_classes(model: BaseSegmenter, dataset: SegmentationDataset) -> None:
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
