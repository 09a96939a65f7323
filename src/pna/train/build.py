"""The parts of a run, from its recipe: data sets, training batches, network."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from pna.bands import Band, read_band_file
from pna.data import (
    Augmented,
    Batch,
    SegmentationDataset,
    StepBatchSampler,
    create_dataset,
    train_loader,
    train_transform,
)
from pna.errors import PnaError
from pna.labels import LabelSpace, generic, read_label_space
from pna.model.cascade import Cascade, cascade
from pna.model.cascade.normalization import Normalize
from pna.model.cascade.sources import build_source, load_weights
from pna.model.config import SourceConfig
from pna.model.encoder import EncoderWeights
from pna.model.loading import load
from pna.model.pna.config import PNAConfig
from pna.model.presets import PRESETS, Preset, create_model
from pna.model.segmenter import BaseSegmenter
from pna.train.recipe import CascadeSection, DataSection, MeanStd, ModelSection, Recipe


def create_split(data: DataSection, use: Literal["train", "val"]) -> SegmentationDataset:
    """Create the data set that a recipe trains or evaluates on, as stored.

    Args:
        data: The recipe's section.
        use: Which of the two.

    Raises:
        MissingFileError: The label space's file isn't there.
        PnaError: The data set is unknown, incomplete, or isn't where the recipe says.
    """
    split, stems = {
        "train": (data.train_split, data.train_list),
        "val": (data.val_split, data.val_list),
    }[use]
    dataset = create_dataset(
        data.name,
        Path(data.root).expanduser(),
        split if stems is None else None,
        split_list=None if stems is None else Path(stems).expanduser(),
        labels=None if data.labels is None else read_label_space(data.labels),
        masks=data.masks,
        ratio=data.ratio,
        ignore=data.ignore,
        class_property=data.class_property,
        bands=None if data.bands is None else read_band_file(data.bands),
    )
    if use == "train" and data.limit is not None:
        dataset = dataset.subset(range(min(data.limit, len(dataset))))
    # For every data set, not "folder" alone: a softmax over one class is always 1.
    if dataset.labels.num_classes < 2:
        raise PnaError(
            f"expected 2 classes or more, got {', '.join(dataset.labels.classes)} alone: nothing "
            "could be learned; add the background as a class of its own"
        )
    return dataset


def augment(dataset: SegmentationDataset, data: DataSection, *, seed: int) -> Augmented:
    """Put a data set under the recipe's augmentation, indexed by (epoch, index)."""
    transform = train_transform(
        data.crop,
        scale=data.scale,
        base_size=data.base_size,
        short_sides=data.short_sides,
        flip=data.flip,
        jitter=data.jitter,
    )
    return Augmented(dataset, transform, seed, skip_bad=data.skip_bad)


def step_batches(
    dataset: Augmented,
    recipe: Recipe,
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Batch]]:
    """Yield batches from `start_step` to the end of the schedule: a function of (seed, step).

    A step has the same images for any number of processes, accumulated parts and workers.

    Args:
        dataset: The augmented samples.
        recipe: Batch size, accumulation, seed, workers and length of the run.
        start_step: Steps taken already.
        rank: This process's number.
        world_size: Number of processes.

    Yields:
        For every optimizer step, this process's share of it in `accumulation` parts.

    Raises:
        PnaError: The batch size can't be shared out evenly.
    """
    parts, batch_size = recipe.run.accumulation, recipe.run.batch_size
    if batch_size % (parts * world_size):
        raise PnaError(
            f"expected run.batch_size ({batch_size}) to be a multiple of run.accumulation x "
            f"processes ({parts} x {world_size}): change one of them"
        )
    sampler = StepBatchSampler(
        len(dataset),
        batch_size // parts,
        seed=recipe.run.seed,
        start_step=start_step * parts,
        # A resumed run may have a schedule that ends before its checkpoint: then nothing is left.
        num_steps=max(start_step, recipe.schedule.steps) * parts,
        rank=rank,
        world_size=world_size,
    )
    # The sampler's steps are the parts here; `parts` of them make an optimizer step.
    batches = iter(train_loader(dataset, sampler, num_workers=recipe.data.num_workers))
    while step := list(itertools.islice(batches, parts)):
        yield step


def create_network(
    settings: ModelSection,
    labels: LabelSpace,
    *,
    bands: Sequence[Band] | None = None,
    pretrained: bool = True,
    presets: Mapping[str, Preset] = PRESETS,
) -> BaseSegmenter:
    """Build the recipe's network for a label space.

    Args:
        settings: The recipe's section.
        labels: The data set's classes.
        bands: The channels of its images; None are RGB.
        pretrained: False builds it without pretrained weights even if the recipe asks for them
            (they are about to be replaced).
        presets: Where the recipe's preset is looked up.

    Raises:
        PnaError: The network can't be built, or its weights are not those of such a network.
        WeightsError: ImageNet weights can't be had.
    """
    # Weights of a saved model replace ImageNet's, which then need not be downloaded.
    weights = settings.encoder_weights if pretrained and settings.init_from is None else None
    if settings.cascade is not None:
        file = settings.cascade.weights if pretrained else None
        return _create_cascade(settings.cascade, settings.pna, labels, bands, weights, file)
    assert settings.preset is not None
    return create_model(
        settings.preset,
        labels=labels,
        encoder=settings.encoder,
        encoder_weights=weights,
        pna=settings.pna,
        options=replace(settings.options, bands=None if bands is None else tuple(bands)),
        presets=presets,
    )


def _create_cascade(
    section: CascadeSection,
    pna: PNAConfig | None,
    labels: LabelSpace,
    bands: Sequence[Band] | None,
    encoder_weights: EncoderWeights | None,
    file: str | None,
) -> Cascade:
    source = SourceConfig(section.library, section.name, section.options)
    path = None if file is None else Path(file).expanduser()
    weights = encoder_weights if path is None else None  # the file has the encoder's too
    network = build_source(source, labels.num_classes, encoder_weights=weights)
    if path is not None:
        _check_classes(path, labels)
        load_weights(network, path)
    normalize: Normalize = section.normalize  # type: ignore[assignment]
    if isinstance(section.normalize, MeanStd):
        normalize = (section.normalize.mean, section.normalize.std)
    return cascade(
        network,
        labels.num_classes,
        normalize=normalize,
        pna=pna,
        features=section.features,
        coarse=section.coarse,
        freeze=section.freeze,
        labels=labels,
        source=source,
        bands=bands,
    )


def _check_classes(weights: Path, labels: LabelSpace) -> None:
    """Refuse a saved model of other classes, whose P0 would mean something else."""
    config = weights / "config.json"
    if not config.is_file():
        return  # a state dict names no classes
    saved = LabelSpace.from_dict(json.loads(config.read_text(encoding="utf-8"))["labels"])
    if saved.classes != labels.classes and not (saved.is_generic or labels.is_generic):
        raise PnaError(
            f"{weights}: expected a model of the data's classes ({', '.join(labels.classes)}), got "
            f"one of {', '.join(saved.classes)}: model.init_from starts from it all the same, with "
            "new classifiers"
        )


def init_from(
    model: BaseSegmenter,
    name: str,
    settings: ModelSection,
    *,
    presets: Mapping[str, Preset] = PRESETS,
) -> str:
    """Copy the weights of a saved model into a new one, as far as they mean the same.

    Tensors whose size depends on the number of classes are copied only if the classes are the same,
    by name and order; so are, always, only tensors of the same name and shape.

    Args:
        model: The new network, with random weights; changed in place.
        name: The saved model: a folder, a bundled name or OWNER/NAME on the hub.
        settings: The section that the new network was built from.
        presets: Where presets are looked up.

    Returns:
        A message: how many tensors were copied, and which kept their random start.

    Raises:
        PnaError: There is no such model, or its encoder is another one.
        WeightsError: The hub can't be reached.
    """
    saved = load(Path(name).expanduser() if Path(name).expanduser().is_dir() else name)
    old, new = saved.state_dict(), model.state_dict()
    taken = {key for key, x in new.items() if key in old and old[key].shape == x.shape}
    if saved.labels.classes != model.labels.classes:
        # Such a network for one class more shows which tensors depend on the classes.
        labels = generic(model.num_classes + 1)
        other = create_network(
            settings, labels, bands=model.bands, pretrained=False, presets=presets
        ).state_dict()
        taken -= {key for key in taken if other[key].shape != new[key].shape}
    # Heads may start anew; another encoder would be no start at all.
    missing = sorted(model.encoder_parameters() - taken)
    if missing:
        raise PnaError(
            f"model.init_from {name}: expected a model on the same encoder ({model.origin}), got "
            f"{saved.origin}: {len(missing)} of its tensors are missing or of another shape, such "
            f"as {missing[0]}"
        )
    if not (torch.equal(saved.mean, model.mean) and torch.equal(saved.std, model.std)):
        raise PnaError(
            f"model.init_from {name}: expected a model that normalizes its images alike (mean "
            f"{model.mean.flatten().tolist()}, std {model.std.flatten().tolist()}), got mean "
            f"{saved.mean.flatten().tolist()}, std {saved.std.flatten().tolist()}"
        )
    model.load_state_dict({key: old[key] if key in taken else x for key, x in new.items()})
    left = sorted(_modules(new.keys() - taken))
    rest = f"; new: {', '.join(left)}" if left else ""
    unused = sorted(_modules(old.keys() - taken - new.keys()))
    rest += f"; not used of it: {', '.join(unused)}" if unused else ""
    return f"started from {name}: {len(taken)} of {len(new)} tensors are taken{rest}"


def _modules(names: set[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in names}
