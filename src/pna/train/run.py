"""From a recipe to a finished run: the folder, the parts, the loop."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from rich.console import Console
from timm.layers.norm_act import convert_sync_batchnorm

from pna.data.check import warn_of_labels
from pna.errors import MissingFileError, PnaError
from pna.files import write_text_atomically
from pna.model.presets import PRESETS, Preset
from pna.model.segmenter import BaseSegmenter
from pna.train.build import augment, create_network, create_split, init_from
from pna.train.errors import explain_failed_write
from pna.train.log import read_log
from pna.train.loop import Outcome, Trainer
from pna.train.processes import create_accelerator
from pna.train.recipe import Recipe, dump_recipe


def train(
    recipe: Recipe,
    run: str | Path,
    *,
    resume: bool = False,
    presets: Mapping[str, Preset] = PRESETS,
    console: Console | None = None,
) -> Outcome:
    """Train by a recipe into a run folder.

    The folder gets `recipe.yaml` (resolved), `log.jsonl`, the checkpoints `last.pt` and `best.pt`,
    and at the end the saved model `model/` and its scores `evaluation/`.

    Args:
        recipe: The settings, e.g. from `load_recipe`.
        run: Folder for everything the run writes; made if it isn't there.
        resume: Continue the run that is there, under the same recipe.
        presets: Where the recipe's preset is looked up.
        console: Where to show progress; stdout by default.

    Returns:
        "finished", or "stopped" if Ctrl-C or SIGTERM ended it early (resume it any time).

    Raises:
        PnaError: The folder isn't empty (without `resume`), the recipe isn't the one the run
            began with, the recipe and the data don't fit together, or there is nothing to learn.
        MissingFileError: There is nothing to resume, or the data isn't there.
        FloatingPointError: The loss or a gradient isn't finite.
        OSError: The disk is full, or a file can't be written.
        TrainingError: Another process, or one that prepares images, has died.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_folder
        >>> from pna.labels import DAMAGE
        >>> from pna.train import parse_recipe
        >>> data = {"name": "folder", "root": str(write_folder(mkdtemp(), DAMAGE))}
        >>> settings = {
        ...     "model": {"preset": "lite-fcn", "encoder_weights": None},
        ...     "data": data | {"labels": "damage", "crop": [32, 32], "num_workers": 0},
        ...     "schedule": {"steps": 1},
        ...     "run": {"batch_size": 2, "tensorboard": False},
        ... }
        >>> train(parse_recipe(settings), Path(mkdtemp()) / "run", console=Console(quiet=True))
        'finished'
    """
    run, console = Path(run), console or Console()
    check_folder(run, resume=resume)
    if resume and is_finished(run, recipe):
        return "finished"
    accelerator = create_accelerator(recipe)
    torch.manual_seed(recipe.run.seed)  # the random weights of the heads
    train_set, val_set = create_split(recipe.data, "train"), create_split(recipe.data, "val")
    weights, classes = recipe.loss.class_weights, train_set.labels.classes
    if weights is not None and len(weights) != len(classes):
        raise PnaError(
            f"loss.class_weights: expected {len(classes)}, one per class ({', '.join(classes)}), "
            f"got {len(weights)}"
        )
    if accelerator.is_main_process:
        warn_of_labels(train_set)
    # On a resume all weights come from the checkpoint.
    model = create_network(
        recipe.model,
        train_set.labels,
        bands=train_set.bands,
        pretrained=not resume,
        presets=presets,
    )
    if recipe.model.init_from is not None and not resume:
        message = init_from(model, recipe.model.init_from, recipe.model, presets=presets)
        if accelerator.is_main_process:
            console.print(message, soft_wrap=True, highlight=False, markup=False)
    if _has_synchronized_norms(recipe, accelerator):
        # timm's conversion keeps the activations of its own norm layers; torch's would lose them.
        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    run.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        for leftover in run.glob(".writing-*.pt"):  # of a process that was killed while writing
            leftover.unlink()
        _try_export(model, run)
    trainer = Trainer(
        recipe,
        run,
        model=model,
        train_set=augment(train_set, recipe.data, seed=recipe.run.seed),
        val_set=val_set,
        accelerator=accelerator,
        console=console,
    )
    if resume:
        trainer.restore()
    else:
        trainer.save()  # step 0: from now on the run can be resumed, whenever it ends
    # After a resume too: the settings that may change are those of the last start.
    if accelerator.is_main_process:
        write_text_atomically(run / "recipe.yaml", dump_recipe(recipe))
    return trainer.run()


def _try_export(model: BaseSegmenter, run: Path) -> None:
    """Save the model once, and remove it: a network that can't be saved fails now, not at the end.

    Raises:
        PnaError: The network can't be saved.
        OSError: There is no room for it.
    """
    with (
        explain_failed_write(run / "model"),
        tempfile.TemporaryDirectory(dir=run, prefix=".writing-") as folder,
    ):
        model.save_pretrained(folder)


def check_folder(run: Path, *, resume: bool) -> None:
    """Refuse to overwrite a run, or to resume none.

    Raises:
        PnaError: The folder isn't empty and `resume` isn't set, or isn't a folder.
        MissingFileError: `resume` is set and there is no checkpoint.
    """
    if run.exists() and not run.is_dir():
        raise PnaError(f"{run}: expected a folder for the run, got a file: name another")
    if resume and not (run / "last.pt").is_file():
        raise MissingFileError(
            f"{run}: expected a run with a last.pt, found none: start it without --resume"
        )
    # A run that was killed in its very first checkpoint has nothing to lose.
    if not resume and run.is_dir() and any(f.name[:1] != "." for f in run.iterdir()):
        raise PnaError(
            f"{run}: expected a new or empty folder, got one with files in it: "
            "continue that run with --resume, or name another folder"
        )


def is_finished(run: Path, recipe: Recipe) -> bool:
    """Return whether the run has been trained to the last step, exported and evaluated."""
    rows = read_log(run / "log.jsonl")
    return bool(rows) and rows[-1]["kind"] == "final" and rows[-1]["step"] >= recipe.schedule.steps


def _has_synchronized_norms(recipe: Recipe, accelerator: Accelerator) -> bool:
    """Return whether batch norm takes its statistics over all processes."""
    wanted, has_gpu = recipe.run.sync_batch_norm, accelerator.device.type == "cuda"
    if wanted and not has_gpu:
        raise PnaError(
            f"run.sync_batch_norm: expected CUDA devices, got {accelerator.device}: "
            "PyTorch synchronizes batch norm there only; leave the setting out"
        )
    return has_gpu and accelerator.num_processes > 1 and wanted is not False
