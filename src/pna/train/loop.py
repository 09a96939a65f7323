"""The training loop: step, log, checkpoint, evaluate; and again, to the bit, after a resume.

Whatever is random in a step (data, dropout, drop-path) is drawn from (seed, step, rank), so a run
stopped anywhere and resumed takes the steps of one that was never stopped. Accelerate provides the
device, the precision and the process group; the order of the data is our own.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import broadcast  # type: ignore[import-untyped]
from rich.console import Console

from pna.data import Augmented, Batch, SegmentationDataset
from pna.evaluate import Report, evaluate
from pna.model.segmenter import BaseSegmenter
from pna.train.averaging import AveragedWeights
from pna.train.batches import step_batches
from pna.train.checkpoint import (
    check_resumable,
    explain_misfit,
    read_checkpoint,
    save_atomically,
)
from pna.train.faults import explain_dead_worker, explain_failed_write
from pna.train.interrupt import StopRequest
from pna.train.log import Meter, RunLog
from pna.train.processes import Processes, explain_lost_process
from pna.train.recipe import Recipe
from pna.train.sharding import check_sharding, is_sharded, load_moments, load_weights, whole
from pna.train.step import Stepper

Outcome = Literal["finished", "stopped"]


class Trainer:
    """One run, from its first step or its last checkpoint to the exported model.

    Args:
        recipe: The settings.
        run: The run folder; it exists.
        model: The network.
        train_set: Augmented training samples.
        val_set: What is evaluated.
        accelerator: Device, precision and process group.
        console: Where to show progress.

    Attributes:
        processes: This process among the others.
        step: Steps taken so far.
        stepper: Takes them.
        average: The running average of the weights, if the recipe asks for one.
        weights: The network that is evaluated and exported: the average, where there is one. Its
            weights are whole.
        best: Step and score (mIoU of the last stage) of the best evaluation so far.
        unreadable: What is wrong with the samples that this process replaced so far.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        *,
        model: BaseSegmenter,
        train_set: Augmented,
        val_set: SegmentationDataset,
        accelerator: Accelerator,
        console: Console,
    ) -> None:
        self.recipe = recipe
        self.folder = run
        self.model = model.train()
        self.train_set = train_set
        self.val_set = val_set
        self.accelerator = accelerator
        self.console = console
        self.step = 0
        self.best: tuple[int, float] | None = None
        self.unreadable: list[str] = []
        self.processes = Processes(accelerator)
        check_sharding(accelerator)
        ema = recipe.run.ema
        self.average = None if ema is None else AveragedWeights(model, ema)
        self.weights = self._whole_network()  # before the stepper may cut the weights into shards
        if is_sharded(accelerator):  # FSDP wants plain rows; ours are channels-last
            model.to(memory_format=torch.contiguous_format)
        self.stepper = Stepper(recipe, model, accelerator, self.processes)
        self.weights.to(accelerator.device)
        self._meter = Meter()
        self._timed_steps, self._seconds = 0, 0.0  # since the last row of the log, or a resume
        self._log: RunLog | None = None  # the main process has one

    def run(self) -> Outcome:
        """Train to the end of the schedule, evaluate and export; or stop early when asked to.

        Raises:
            FloatingPointError: The loss or a gradient isn't finite; nothing has been overwritten.
            TrainingError: Another process, or one that prepares pictures, has died.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(explain_lost_process(self.processes.rank, self.processes.number))
            stack.enter_context(explain_dead_worker())
            if self.processes.is_main:
                self._log = stack.enter_context(self._open_log())
            with StopRequest() as stop:
                if self._is_evaluation_due():  # the checkpoint was written just before it
                    self._evaluate()
                if not self._train(stop):
                    return "stopped"
            self._finish()  # Ctrl-C ends this at once: a resume does it again
        return "finished"

    def _train(self, stop: StopRequest) -> bool:
        """Take the remaining steps; False if stopped before the last one."""
        batches = step_batches(
            self.train_set,
            self.recipe,
            start_step=self.step,
            rank=self.processes.rank,
            world_size=self.processes.number,
        )
        start = time.perf_counter()
        for parts in batches:
            self._take_step(parts)
            self._timed_steps += 1
            self._seconds += time.perf_counter() - start
            should_stop = self.processes.any(stop.is_set)
            self._after_step(should_stop)
            if should_stop and self.step < self.recipe.schedule.steps:
                return False
            start = time.perf_counter()
        return True

    def _after_step(self, should_stop: bool) -> None:
        if self._log is not None:
            self._log.advance(self.step)
        if self._is_due(self.recipe.run.log_every):
            self._log_step()
        # A checkpoint comes before the evaluation of its step, so a resume repeats that one alone.
        is_evaluation_due = self._is_evaluation_due()
        if should_stop or is_evaluation_due or self._is_due(self.recipe.run.checkpoint_every):
            self.save()
        if is_evaluation_due and not should_stop:
            self._evaluate()

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.schedule.steps

    def _is_evaluation_due(self) -> bool:
        every = self.recipe.run.eval_every
        return every is not None and self.step > 0 and self._is_due(every)

    def _take_step(self, parts: Sequence[Batch]) -> None:
        self._note(message for batch in parts for message in batch.unreadable)
        self._meter.add(self.stepper.take(self.step, parts))
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)

    def _note(self, unreadable: Iterable[str]) -> None:
        """Keep each message once: a sample is met again in every epoch."""
        self.unreadable = list(dict.fromkeys([*self.unreadable, *unreadable]))

    def _open_log(self) -> RunLog:
        return RunLog(
            self.folder,
            start=self.step,
            steps=self.recipe.schedule.steps,
            tensorboard=self.recipe.run.tensorboard,
            console=self.console,
        )

    def _log_step(self) -> None:
        """Write the mean losses since the last row."""
        means = self.accelerator.reduce(self._meter.means(), reduction="mean")
        num_steps, seconds = self._timed_steps, self._seconds
        self._timed_steps, self._seconds = 0, 0.0
        if self._log is not None:
            row = {name: float(value) for name, value in means.items()}
            row |= {f"lr/{g['name']}": g["lr"] for g in self.stepper.optimizer.param_groups}
            row["seconds"] = seconds
            row["pictures_per_second"] = num_steps * self.recipe.run.batch_size / seconds
            self._log.write("train", self.step, row)

    def _whole_network(self) -> BaseSegmenter:
        if self.average is not None:
            return self.average.model
        return copy.deepcopy(self.model) if is_sharded(self.accelerator) else self.model

    def _put_together(self) -> None:
        """Bring `weights` up to date where the network's own are in shards."""
        if self.average is None and self.weights is not self.model:
            self.weights.load_state_dict(whole(self.model.state_dict()))

    def _evaluate(self) -> None:
        """Evaluate, all processes together; keep the weights if they are the best so far."""
        self._put_together()
        report = self._score(limit=self.recipe.run.eval_limit)
        score = report.final.miou
        is_best = not math.isnan(score) and (self.best is None or score > self.best[1])
        if is_best:
            self.best = (self.step, score)
        if self._log is not None:
            self._log.write("eval", self.step, _summary(report))
            if is_best:
                self._save_best(score)
        self.processes.wait()

    def _score(self, limit: int | None) -> Report:
        """Evaluate; every process takes its share of the pictures and gets the whole report."""
        if self.accelerator.num_processes > 1:  # the running statistics of the main one count
            broadcast(list(self.weights.buffers()))
        return evaluate(
            self.weights,
            self.val_set,
            model_name=self.recipe.model.title,
            limit=limit,
            skip_bad=self.recipe.data.skip_bad,
            progress=False,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )

    def save(self) -> None:
        """Write `last.pt`."""
        self._note(self.processes.join(self.unreadable))
        model = whole(self.model.state_dict())  # by all processes, like the next line
        optimizer = whole(self.stepper.optimizer.state_dict())
        if self.processes.is_main:
            scaler = self.accelerator.scaler
            payload = {
                **self._identity(),
                "best": self.best,
                "model": model,
                "average": None if self.average is None else self.average.model.state_dict(),
                "optimizer": optimizer,
                "scaler": None if scaler is None else scaler.state_dict(),
                "meter": self._meter.state_dict(),
                "unreadable": self.unreadable,
            }
            save_atomically(payload, self.folder / "last.pt")
        self.processes.wait()

    def _save_best(self, score: float) -> None:
        payload = {**self._identity(), "score": score, "model": self.weights.state_dict()}
        save_atomically(payload, self.folder / "best.pt")

    def _identity(self) -> dict[str, object]:
        return {
            "step": self.step,
            "recipe": self.recipe.flat(),
            "classes": list(self.val_set.labels.classes),
        }

    def restore(self) -> None:
        """Go back to `last.pt`.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It was written under another recipe or for other classes, or is damaged.
        """
        path = self.folder / "last.pt"
        saved = read_checkpoint(path)
        with explain_misfit(path):
            check_resumable(path, saved, self.recipe.flat(), list(self.val_set.labels.classes))
            self._load(saved)

    def _load(self, saved: Mapping[str, Any]) -> None:
        self.step, self.best = saved["step"], saved["best"]
        load_weights(self.model, saved["model"])
        load_moments(self.stepper.optimizer, saved["optimizer"])
        self._meter.load_state_dict(saved["meter"], self.accelerator.device)
        self.unreadable = saved.get("unreadable", [])  # of a version before, there were none
        if self.average is not None:
            self.average.model.load_state_dict(saved["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])

    def _finish(self) -> None:
        """Export the weights that `run.export` asks for, and evaluate them in full.

        The samples that couldn't be read, in training or in this evaluation, are listed.
        """
        self._note(self.processes.join(self.unreadable))
        self._put_together()
        step = self.step
        if self.recipe.run.export == "best" and self.best is not None:
            best = read_checkpoint(self.folder / "best.pt")
            self.weights.load_state_dict(best["model"])
            step = best["step"]
        if self._log is not None:
            with explain_failed_write(self.folder / "model"):
                self.weights.save_pretrained(self.folder / "model")
        report = self._score(limit=None)
        if self._log is not None:
            with explain_failed_write(self.folder / "evaluation"):
                report.save(self.folder / "evaluation")
            self._note(report.unreadable)
            found = {"unreadable": self.unreadable} if self.unreadable else {}
            self._log.write(
                "final", self.step, {"exported_step": step, **_summary(report), **found}
            )
            for message in self.unreadable:
                self._log.say(f"could not be read, and was replaced or left out: {message}")
        self.processes.wait()


def _summary(report: Report) -> dict[str, object]:
    """The mIoU of every stage; None (JSON has no NaN) if nothing was labelled."""
    scores = {name: stage.miou for name, stage in report.stages.items()}
    return {"miou": {name: None if math.isnan(x) else x for name, x in scores.items()}}
