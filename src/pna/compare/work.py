"""Does the runs of a comparison, one after the other; several processes share them out."""

import gc
import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from pna.compare.locks import LOCKS, try_lock
from pna.compare.runs import SOURCE, Run, check_run
from pna.evaluate import evaluate
from pna.model.checkpoints import load
from pna.model.segmenter import BaseSegmenter
from pna.predict import default_device
from pna.train import dump_recipe, train
from pna.train.assemble import create_network, create_split
from pna.writing import replace_text


@dataclass
class Outcome:
    """What became of the runs that a process looked at, by name.

    Attributes:
        elsewhere: Under way in other processes.
        waiting: Behind models that aren't trained yet.
        failed: What ended them, in a line.
        is_stopped: Whether Ctrl-C or SIGTERM ended the work.
    """

    elsewhere: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    is_stopped: bool = False


def do_runs(runs: Iterable[Run], folder: Path, console: Console) -> Outcome:
    """Train and score what isn't finished and nobody else is at.

    Whatever ends one run doesn't end the others.

    Args:
        runs: In the order to do them.
        folder: The comparison's.
        console: Where to show progress.

    Raises:
        ValueError: The process is one of several that a launcher started.
    """
    _check_alone()
    outcome = Outcome()
    for run in runs:
        if outcome.is_stopped:
            break
        with try_lock(folder / LOCKS / run.name) as is_ours:
            if is_ours:
                _try(run, outcome, console)
            else:
                outcome.elsewhere.append(run.name)
        gc.collect()  # the network before the next one is built
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return outcome


def _try(run: Run, outcome: Outcome, console: Console) -> None:
    try:
        check_run(run)  # again: another process may have made it meanwhile
        if run.is_finished:
            return
        if run.source is not None and not run.source.is_finished:
            outcome.waiting.append(run.name)
            return
        console.rule(f"{run.row.title}, {run.budget} steps, seed {run.seed}: {run.folder}")
        if run.source is not None:
            _score_behind(run, run.source)
        else:
            is_begun = (run.folder / "last.pt").is_file()
            result = train(run.recipe, run.folder, resume=is_begun, console=console)
            outcome.is_stopped = result == "stopped"
    except Exception as error:  # it may be anything, and the other models have their own chance
        console.print(traceback.format_exc(), markup=False, highlight=False)
        first, *_ = str(error).splitlines() or [""]
        outcome.failed[run.name] = f"{type(error).__name__}: {first}"


def _score_behind(run: Run, source: Run) -> None:
    """Score a network on the trained weights of another, which it takes all of its own from."""
    if not (source.folder / "model").is_dir():
        raise FileNotFoundError(
            f"{source.folder}: expected a run with its weights (model/), found a kept one without: "
            "remove the folder to have it trained anew"
        )
    run.folder.mkdir(parents=True, exist_ok=True)
    replace_text(run.folder / SOURCE, f"{source.name}\n")
    replace_text(run.folder / "recipe.yaml", dump_recipe(run.recipe))
    dataset = create_split(run.recipe.data, "val")
    model = create_network(run.recipe.model, dataset.labels, pretrained=False)
    take_weights(model, load(source.folder / "model"))
    model.save_pretrained(run.folder / "model")
    report = evaluate(
        model,
        dataset,
        model_name=run.recipe.model.title,
        device=default_device(),
        skip_bad=run.recipe.data.skip_bad,
    )
    report.save(run.folder / "evaluation")


def take_weights(model: BaseSegmenter, trained: BaseSegmenter) -> None:
    """Give a model the weights of a trained one, and see that it has none beside them.

    Raises:
        ValueError: Either has parameters that the other doesn't.
    """
    found = model.load_state_dict(trained.state_dict(), strict=False)
    own = {name for name, _ in model.named_parameters()}
    untrained = sorted(own & set(found.missing_keys))
    if untrained or found.unexpected_keys:
        names = [*untrained, *found.unexpected_keys]
        raise ValueError(
            "expected a network that adds nothing to be trained to the one it stands behind, got "
            f"one that differs in {len(names)} tensors, {names[0]} among them: train it as a "
            "model of its own (leave out `behind`)"
        )


def _check_alone() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "pna compare trains each model in one process, got several from a launcher: start "
            "the command itself once per GPU (CUDA_VISIBLE_DEVICES); they share the runs out"
        )
