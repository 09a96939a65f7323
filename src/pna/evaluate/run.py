"""The evaluation loop: images one at a time, every stage scored in the same pass.

Processes share the images out without repeating any, and add up counts, not scores: N processes
give the report of one, whatever N.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pna.data import DataError, DataWarning, Sample, SegmentationDataset
from pna.data.check import remark_on_labels
from pna.data.loader import read_in_order
from pna.data.pairs import files_by_stem
from pna.data.reading import read_index_mask
from pna.errors import MissingFileError, PnaError
from pna.evaluate.classes import Renumbered, match_classes
from pna.evaluate.report import Report
from pna.evaluate.shares import Share, exchange, find_processes
from pna.inference.devices import Device
from pna.inference.segment import stage_labels
from pna.inference.tiling import WHOLE, TilingConfig
from pna.labels import IGNORE_INDEX
from pna.model.segmenter import BaseSegmenter

Predict = Callable[[int, Sample], Mapping[str, Tensor]]
"""From a sample and its index to label maps (H, W) by stage."""


def evaluate(
    model: BaseSegmenter,
    dataset: SegmentationDataset,
    *,
    model_name: str = "",
    device: Device | None = None,
    boundary_width: int = 3,
    limit: int | None = None,
    skip_bad: bool = False,
    num_workers: int = 0,
    progress: bool = True,
    tiling: TilingConfig = WHOLE,
) -> Report:
    """Score a model on the untransformed images of a data set.

    Images go through one at a time, whole and at their own size unless `tiling` or the model's
    `inference_size` says otherwise; scores are taken at the labels' own resolution. The coarse
    output is "P0", the refinement stages are "P1" to "Pn"; a model without stages has "P0" alone.
    The classes in the means are those that the data set's label space scores and its labels hold,
    the same for every stage.

    Where torch's process group is initialized, every process of it has to call this function: they
    share the images, and each gets the report on all of them.

    Args:
        model: Any segmenter. It runs in evaluation mode; each module's mode, and the model's
            device, are restored afterwards.
        dataset: Gives `dataset[index]`, a `Sample`, and `labels`.
        model_name: Name of the model in the report.
        device: Where to run; by default the model stays where it is.
        boundary_width: Width of the boundary region of boundary IoU in pixels.
        limit: Score only the first `limit` images; None scores all.
        skip_bad: Whether samples that can't be read are left out, and listed in the report, instead
            of ending the evaluation.
        num_workers: Processes that read images ahead; 0 reads in this one.
        progress: Whether to draw a progress bar, if rich is installed; of several processes the
            first does.
        tiling: Whole images, sliding window, test-time augmentation.

    Raises:
        PnaError: If model and data set differ in the number of classes or in their order, or
            `limit` leaves nothing to score. A model may have further classes, by name: pixels that
            it gives them are errors.
        DataError: If a sample can't be read, or with `skip_bad` none can.

    Example:
        >>> from tempfile import mkdtemp
        >>> import pna
        >>> from pna.data import create_dataset
        >>> from pna.data.synthetic import write_voc
        >>> dataset = create_dataset("voc2012", write_voc(mkdtemp()), "val")
        >>> report = evaluate(pna.load("voc-lite"), dataset, progress=False)
        >>> list(report.stages), report.num_images
        (['P0', 'P1', 'P2', 'P3', 'P4'], 2)
    """
    labels, numbers = match_classes(model.labels, dataset.labels)
    scored = dataset if numbers is None else Renumbered(dataset, labels, numbers)

    def predict(index: int, sample: Sample) -> Mapping[str, Tensor]:
        maps = stage_labels(model, sample.image.unsqueeze(0), tiling=tiling).stages
        return {f"P{stage}": labels[0] for stage, labels in enumerate(maps)}  # (H, W) each

    with _evaluation_mode(model, device), torch.inference_mode():
        total = _count(
            scored,
            predict,
            boundary_width=boundary_width,
            limit=limit,
            skip_bad=skip_bad,
            num_workers=num_workers,
            progress=progress,
        )
    report = _report(total, scored, name=type(dataset).__name__, model=model_name, tiling=tiling)
    if model.inference_size is None:
        return report
    return replace(report, remarks=(*report.remarks, f"images resized: {model.inference_size}"))


def evaluate_predictions(
    predictions: str | Path,
    dataset: SegmentationDataset,
    *,
    name: str = "",
    boundary_width: int = 3,
    limit: int | None = None,
    skip_bad: bool = False,
    num_workers: int = 0,
    progress: bool = True,
) -> Report:
    """Score a folder of label maps, of whatever origin, on the images of a data set.

    A prediction is an image of class indices, grayscale or palette, of its image's size, and has
    the name of the pair or the stem of its image; `_labels` may follow, as `pna segment` writes it.
    Processes share the images as in `evaluate`.

    Args:
        predictions: The folder.
        dataset: Its labels are the truth.
        name: Name of the predictions in the report; by default that of the folder.
        boundary_width: Width of the boundary region of boundary IoU in pixels.
        limit: Score only the first `limit` images; None scores all.
        skip_bad: Whether samples of the data set that can't be read are left out.
        num_workers: Processes that read images ahead; 0 reads in this one.
        progress: Whether to draw a progress bar, if rich is installed.

    Raises:
        MissingFileError: If an image has no prediction.
        DataError: If a sample or a prediction can't be read, or a prediction has another size or
            holds a value that is no class; the message names the file.
        PnaError: If `limit` leaves nothing to score.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data import create_dataset
        >>> from pna.data.synthetic import write_folder
        >>> from pna.labels import generic
        >>> root = write_folder(mkdtemp(), generic(3))
        >>> dataset = create_dataset("folder", root, labels=generic(3))
        >>> evaluate_predictions(root / "masks", dataset, progress=False).final.miou
        1.0
    """
    folder = Path(predictions)
    files = files_by_stem(folder, needed_for="a label map for each image")
    chosen: list[Path] = []
    for pair in dataset.pairs[:limit]:
        stems = dict.fromkeys(
            stem + ending for ending in ("", "_labels") for stem in (pair.name, pair.image.stem)
        )
        file = next((files[stem] for stem in stems if stem in files), None)
        if file is None:
            expected = " or ".join(f"{stem}.png" for stem in stems)
            raise MissingFileError(
                f"no prediction for {pair.image}: expected {expected} in {folder}"
            )
        chosen.append(file)

    def predict(index: int, sample: Sample) -> Mapping[str, Tensor]:
        values = read_index_mask(chosen[index])
        if values.shape != tuple(sample.labels.shape):
            raise DataError(
                f"sizes differ (height, width): prediction {chosen[index]} has {values.shape}, the "
                f"labels of {sample.name} have {tuple(sample.labels.shape)}"
            )
        # Checked here, where the file has a name; only where the truth counts: a map may mark
        # ignored pixels by 255 too.
        prediction = torch.from_numpy(values.astype("int64"))
        is_class = (prediction >= 0) & (prediction < dataset.labels.num_classes)
        wrong = prediction[(sample.labels != IGNORE_INDEX) & ~is_class]
        if wrong.numel():
            raise DataError(
                f"prediction {chosen[index]} has labels {sorted(set(wrong.tolist()))[:8]} where "
                f"the truth is not ignored: allowed are 0..{dataset.labels.num_classes - 1} "
                f"({dataset.labels.name})"
            )
        return {"prediction": prediction}

    total = _count(
        dataset,
        predict,
        boundary_width=boundary_width,
        limit=limit,
        skip_bad=skip_bad,
        num_workers=num_workers,
        progress=progress,
    )
    return _report(
        total, dataset, name=type(dataset).__name__, model=name or folder.name, tiling=None
    )


def _count(
    dataset: SegmentationDataset | Renumbered,
    predict: Predict,
    *,
    boundary_width: int,
    limit: int | None,
    skip_bad: bool,
    num_workers: int,
    progress: bool,
) -> Share:
    """Count every stage of every image; processes share the images, and each gets the sum."""
    if limit is not None and limit < 1:
        raise PnaError(f"limit must be at least 1 image, got {limit}")
    if len(dataset) == 0:
        raise PnaError("the dataset holds no images, so there is nothing to score")
    num_images = len(dataset) if limit is None else min(limit, len(dataset))
    rank, world_size = find_processes()
    share = Share(dataset.labels, boundary_width)
    # In a process group no error may end one process while the others wait for its counts.
    with share.keeping_error(world_size):
        # Every N-th image. None is repeated to make shares equal: it would count twice.
        own = range(rank, num_images, world_size)
        samples = read_in_order(partial(_try_to_read, dataset), own, num_workers=num_workers)
        is_shown = progress and rank == 0
        for index, sample in zip(own, _track(samples, len(own), is_shown), strict=True):
            share.num_samples += 1
            if isinstance(sample, DataError):
                if not skip_bad:
                    raise sample
                share.unreadable[index] = str(sample)
                continue
            share.update(sample.labels, predict(index, sample))
    total = exchange(share, world_size)
    if len(total.unreadable) == num_images:
        first = next(iter(total.unreadable.values()))
        raise DataError(f"none of {num_images} samples can be read. The first: {first}")
    return total


# Returned, not raised: a DataLoader's worker would put its traceback in place of the message.
def _try_to_read(dataset: SegmentationDataset | Renumbered, index: int) -> Sample | DataError:
    try:
        return dataset[index]
    except DataError as error:
        return error


def _track(
    samples: Iterable[Sample | DataError], number: int, is_shown: bool
) -> Iterable[Sample | DataError]:
    """Draw a progress bar around the samples, where rich is installed."""
    if not is_shown:
        return samples
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:  # it is no requirement of inference, and the bar no result
        return samples
    # Standard output is for results.
    return track(samples, "evaluate", total=number, console=Console(stderr=True))


def _report(
    total: Share,
    dataset: SegmentationDataset | Renumbered,
    *,
    name: str,
    model: str,
    tiling: TilingConfig | None,
) -> Report:
    stages = {name: state.compute() for name, state in total.counts.items()}
    counts = next(iter(total.counts.values()))  # truth and ignored pixels of all stages agree
    pixels = [0] * (IGNORE_INDEX + 1)
    pixels[: dataset.labels.num_classes] = counts.confusion.sum(1).tolist()
    pixels[IGNORE_INDEX] = counts.num_ignored
    # The confusion matrix holds the counts of the labels already, so no mask is read again.
    remark = remark_on_labels(dataset.labels, pixels)
    if remark is not None and find_processes()[0] == 0:
        warnings.warn(f"the labels of {name}: {remark}", DataWarning, stacklevel=3)
    return Report(
        dataset=name,
        model=model,
        labels=dataset.labels,
        stages=stages,
        num_images=total.num_samples - len(total.unreadable),
        num_available=len(dataset),
        unreadable=tuple(total.unreadable.values()),
        remarks=() if remark is None else (remark,),
        tiling=tiling,
    )


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module, device: Device | None) -> Iterator[None]:
    """Switch to evaluation, on a device, and back.

    Modes are restored module by module: frozen parts of a model stay frozen.
    """
    # One by one: `model.train()` afterwards would thaw frozen batch norms.
    modes = [(module, module.training) for module in model.modules()]
    parameter = next(model.parameters(), None)
    before = torch.device("cpu") if parameter is None else parameter.device
    model.eval()
    try:
        if device is not None:
            model.to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        if device is not None:
            model.to(before)
