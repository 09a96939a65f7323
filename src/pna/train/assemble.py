"""From a recipe to a running `Trainer`: the run folder, the data sets, the network."""

from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from rich.console import Console
from timm.layers.norm_act import convert_sync_batchnorm

from pna.data import SegmentationDataset, create_dataset
from pna.labels import LabelSpace, read_label_space
from pna.model.cascade import Cascade, cascade
from pna.model.cascade.sources import build_source, load_weights
from pna.model.config import SourceConfig
from pna.model.presets import create_model
from pna.model.segmenter import BaseSegmenter
from pna.train.batches import augment
from pna.train.log import read_log
from pna.train.loop import Outcome, Trainer
from pna.train.processes import create_accelerator
from pna.train.recipe import (
    CASCADE_OVERRIDES,
    CascadeSection,
    DataSection,
    ModelSection,
    Recipe,
)
from pna.train.recipe_files import dump_recipe
from pna.writing import replace_text


def train(
    recipe: Recipe, run: str | Path, *, resume: bool = False, console: Console | None = None
) -> Outcome:
    """Train by a recipe into a run folder.

    Args:
        recipe: The settings, e.g. from `load_recipe`.
        run: Folder for everything the run writes; made if it isn't there.
        resume: Continue the run that is there, under the same recipe.
        console: Where to show progress; stdout by default.

    Returns:
        "finished", or "stopped" if Ctrl-C or SIGTERM ended it early (resume it any time).

    Raises:
        ValueError: The folder isn't empty (without `resume`), the recipe isn't the one the run
            began with, or the recipe and the data don't fit together.
        FileNotFoundError: There is nothing to resume, or the data isn't there.
        FloatingPointError: The loss or a gradient isn't finite.
        OSError: The disk is full, or a file can't be written.
        TrainingError: Another process, or one that prepares pictures, has died.
    """
    run = Path(run)
    check_folder(run, resume=resume)
    if resume and is_finished(run, recipe):
        return "finished"
    accelerator = create_accelerator(recipe)
    trainer = create_trainer(recipe, run, accelerator, console or Console(), resume=resume)
    if resume:
        trainer.restore()
    else:
        run.mkdir(parents=True, exist_ok=True)
        trainer.save()  # step 0: from now on the run can be resumed, whenever it ends
    if accelerator.is_main_process:
        _write_recipe(recipe, run)
    return trainer.run()


def _write_recipe(recipe: Recipe, run: Path) -> None:
    replace_text(run / "recipe.yaml", dump_recipe(recipe))


def check_folder(run: Path, *, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume none.

    Raises:
        ValueError: The folder isn't empty and `resume` isn't set, or isn't a folder.
        FileNotFoundError: `resume` is set and there is no checkpoint.
    """
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run}: expected a folder for the run, got a file: name another")
    if resume and not (run / "last.pt").is_file():
        raise FileNotFoundError(
            f"{run}: expected a run with a last.pt, found none: start it without --resume"
        )
    # A run that was killed in its very first checkpoint has nothing to lose.
    if not resume and run.is_dir() and any(f.name != "last.pt.writing" for f in run.iterdir()):
        raise ValueError(
            f"{run}: expected a new or empty folder, got one with files in it: "
            "continue that run with --resume, or name another folder"
        )


def is_finished(run: Path, recipe: Recipe) -> bool:
    """Whether the run has been trained to the recipe's last step, exported and evaluated."""
    rows = read_log(run / "log.jsonl")
    return bool(rows) and rows[-1]["kind"] == "final" and rows[-1]["step"] >= recipe.schedule.steps


def create_trainer(
    recipe: Recipe, run: Path, accelerator: Accelerator, console: Console, *, resume: bool
) -> Trainer:
    """The recipe's data, network and loop, at step 0.

    Args:
        recipe: The settings.
        run: The run folder.
        accelerator: Device, precision and processes.
        console: Where to show progress.
        resume: Leaves out the ImageNet weights, which a checkpoint is about to replace.
    """
    torch.manual_seed(recipe.run.seed)  # the random weights of the heads
    train_set = create_split(recipe.data, "train")
    if recipe.data.limit is not None:
        train_set.pairs = train_set.pairs[: recipe.data.limit]
    model = create_network(recipe.model, train_set.labels, pretrained=not resume)
    if _is_synchronised(recipe, accelerator):
        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return Trainer(
        recipe,
        run,
        model=model,
        train_set=augment(train_set, recipe.data, seed=recipe.run.seed),
        val_set=create_split(recipe.data, "val"),
        accelerator=accelerator,
        console=console,
    )


def _is_synchronised(recipe: Recipe, accelerator: Accelerator) -> bool:
    """Whether batch norm takes its statistics over all processes."""
    wanted, has_gpu = recipe.run.sync_batch_norm, accelerator.device.type == "cuda"
    if wanted and not has_gpu:
        raise ValueError(
            f"run.sync_batch_norm: expected CUDA devices, got {accelerator.device}: "
            "PyTorch synchronises batch norm there only; leave the setting out"
        )
    return has_gpu and accelerator.num_processes > 1 and wanted is not False


def create_split(data: DataSection, use: Literal["train", "val"]) -> SegmentationDataset:
    """What the recipe trains or evaluates on, as stored.

    Args:
        data: The recipe's section.
        use: Which of the two.

    Raises:
        FileNotFoundError: The label space's file isn't there.
        ValueError: The data set is unknown, incomplete, or isn't where the recipe says.
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
        label_cache=None if data.label_cache is None else Path(data.label_cache).expanduser(),
    )
    if data.picture_cache is not None:
        folder = Path(data.picture_cache).expanduser()
        dataset.cache_pictures(folder, gigabytes=data.picture_cache_gb)
    return dataset


def create_network(
    settings: ModelSection, labels: LabelSpace, *, pretrained: bool
) -> BaseSegmenter:
    """The recipe's network for a label space.

    Args:
        settings: The recipe's section.
        labels: The data set's classes.
        pretrained: False builds it without weights even if the recipe asks for them (they are
            about to be replaced).

    Raises:
        ValueError: The network can't be built, or its weights are not what the recipe says.
        WeightsError: ImageNet weights can't be had.
    """
    if settings.cascade is not None:
        return _create_cascade(settings.cascade, settings, labels, pretrained=pretrained)
    assert settings.preset is not None
    overrides = settings.overrides
    return create_model(
        settings.preset,
        encoder=settings.encoder,
        labels=labels,
        pretrained=settings.pretrained and pretrained,
        output_stride=overrides.output_stride,
        multi_grid=overrides.multi_grid,
        coarse_channels=overrides.coarse_channels,
        rates=overrides.rates,
        aux=overrides.aux,
        widths=overrides.widths,
        window=overrides.window,
        self_aggregation=overrides.self_aggregation,
        variant=overrides.variant,
        residual=overrides.residual,
        centre=overrides.centre,
        embedding_bias=overrides.embedding_bias,
        upsample=overrides.upsample,
        drop_path=overrides.drop_path,
    )


def _create_cascade(
    section: CascadeSection, settings: ModelSection, labels: LabelSpace, *, pretrained: bool
) -> Cascade:
    source = SourceConfig(section.library, section.name, section.options)
    # Weights of a file replace ImageNet's.
    from_file = section.weights if pretrained else None
    is_from_imagenet = settings.pretrained and pretrained and from_file is None
    base = build_source(source, labels.num_classes, pretrained=is_from_imagenet)
    if from_file is not None:
        load_weights(base, Path(from_file).expanduser())
    given = settings.overrides.model_dump(include=CASCADE_OVERRIDES, exclude_none=True)
    return cascade(
        base,
        labels.num_classes,
        features=section.features,
        coarse=section.coarse,
        mean=section.mean,
        std=section.std,
        freeze=section.freeze,
        refine=section.refine,
        labels=labels,
        source=source,
        **given,
    )
