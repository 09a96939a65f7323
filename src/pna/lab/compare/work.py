"""Train and score the runs of a comparison one after the other.

Several processes may work on one folder: a run is done by the process that holds its lock. The
system releases the locks of a process that ends, however it ends.
"""

import gc
import json
import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from pna.errors import MissingFileError, PnaError
from pna.evaluate import evaluate
from pna.files import write_text_atomically
from pna.inference.devices import default_device
from pna.lab.baselines import PRESETS
from pna.lab.compare.runs import MACHINE, WEIGHTS_OF, Run, check_run
from pna.lab.machine import describe
from pna.model.loading import load
from pna.model.segmenter import BaseSegmenter
from pna.train import dump_recipe, train
from pna.train.build import create_network, create_split

LOCKS = ".locks"
"""Folder of the lock files, in that of a comparison."""


@dataclass
class Progress:
    """The runs that a process could not do, by name.

    Attributes:
        elsewhere: Runs that other processes are doing.
        waiting: Runs that need the weights of a model that is not trained yet.
        failed: Runs that failed, with the error in one line.
        is_stopped: Whether Ctrl-C or SIGTERM ended the work.
    """

    elsewhere: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    is_stopped: bool = False


def run_lock(folder: Path, name: str) -> FileLock:
    """Return the lock of a run, or of another piece of work, in a comparison's folder."""
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCKS / name, timeout=0)


def do_runs(runs: Iterable[Run], folder: Path, console: Console) -> Progress:
    """Train and score the runs that are not finished. A run that fails does not end the others.

    Args:
        runs: In the order in which to do them.
        folder: The comparison's.
        console: Where to show progress.

    Raises:
        PnaError: The process is one of several that a launcher started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PnaError(
            "pna compare trains each model in one process, got several from a launcher: start the "
            "command itself once per GPU (CUDA_VISIBLE_DEVICES); the processes share the runs"
        )
    progress = Progress()
    for run in runs:
        if progress.is_stopped:
            break
        lock = run_lock(folder, run.name)
        try:
            lock.acquire()
        except Timeout:
            progress.elsewhere.append(run.name)
            continue
        try:
            check_run(run)  # again: another process may have made it since the plan
            if not run.is_finished:
                _do_run(run, progress, console)
        except Exception as error:  # of any kind; the other models are independent of it
            # A `PnaError` is the user's, such as a wrong folder: its message says all.
            text = str(error) if isinstance(error, PnaError) else traceback.format_exc()
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            first, *_ = str(error).splitlines() or [""]
            progress.failed[run.name] = f"{type(error).__name__}: {first}"
        finally:
            lock.release()
        gc.collect()  # frees the network before the next one is built
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return progress


def _do_run(run: Run, progress: Progress, console: Console) -> None:
    if run.source is not None and not run.source.is_finished:
        progress.waiting.append(run.name)
        return
    console.rule(f"{run.model.title}, {run.steps} steps, seed {run.seed}: {run.folder}")
    if run.source is not None:
        _score_with_weights_of(run, run.source)
    else:
        is_begun = (run.folder / "last.pt").is_file()
        outcome = train(run.recipe, run.folder, resume=is_begun, presets=PRESETS, console=console)
        if outcome == "stopped":
            progress.is_stopped = True
            return
    machine = json.dumps(describe(default_device()), indent=1) + "\n"
    write_text_atomically(run.folder / MACHINE, machine)


def _score_with_weights_of(run: Run, source: Run) -> None:
    """Score a network that has the weights of another."""
    if not (source.folder / "model").is_dir():
        raise MissingFileError(
            f"{source.folder}: expected a run with its weights (model/), found none: remove its "
            "line in runs.jsonl to train it again"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(run.folder / WEIGHTS_OF, f"{source.name}\n")
    write_text_atomically(run.folder / "recipe.yaml", dump_recipe(run.recipe))
    dataset = create_split(run.recipe.data, "val")
    model = create_network(run.recipe.model, dataset.labels, pretrained=False, presets=PRESETS)
    copy_weights(load(source.folder / "model", presets=PRESETS), model)
    model.save_pretrained(run.folder / "model")
    report = evaluate(
        model,
        dataset,
        model_name=run.recipe.model.title,
        device=default_device(),
        skip_bad=run.recipe.data.skip_bad,
    )
    report.save(run.folder / "evaluation")


def copy_weights(trained: BaseSegmenter, model: BaseSegmenter) -> None:
    """Copy the weights of a trained model to one that has no others.

    Raises:
        PnaError: Either has parameters that the other has not.
    """
    # Missing buffers are fine: the network has filled them itself. Missing weights are not.
    keys = model.load_state_dict(trained.state_dict(), strict=False)
    parameters = {name for name, _ in model.named_parameters()}
    names = [*sorted(parameters & set(keys.missing_keys)), *keys.unexpected_keys]
    if names:
        raise PnaError(
            "expected a network with the parameters of the one whose weights it takes, got one "
            f"that differs in {len(names)} tensors, such as {names[0]}: train it as a model of its "
            "own (leave out `weights_of`)"
        )
