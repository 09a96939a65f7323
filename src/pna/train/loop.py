"""The training loop: step, log, checkpoint, evaluate; and again, to the bit, after a resume.

Whatever is random in a step (data, dropout, drop-path) is drawn from (seed, step, rank), so a run
stopped anywhere and resumed takes the steps of one that was never stopped. Accelerate provides the
device, the precision and the process group; the order of the data is our own.
"""

import contextlib
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import broadcast  # type: ignore[import-untyped]
from rich.console import Console

from pna.data import Augmented, SegmentationDataset
from pna.errors import PnaError
from pna.evaluate import Report, evaluate
from pna.model.segmenter import BaseSegmenter
from pna.train.build import step_batches
from pna.train.errors import explain_dead_worker, explain_failed_write, explain_lost_process
from pna.train.log import Meter, RunLog
from pna.train.optimizer import average_weights
from pna.train.processes import Processes, StopRequest
from pna.train.recipe import Recipe
from pna.train.state import check_resumable, explain_misfit, read_checkpoint, save_checkpoint
from pna.train.step import Stepper

Outcome = Literal["finished", "stopped"]


class Trainer:
    """One run, from its first step or its last checkpoint to the exported model.

    Args:
        recipe: The settings.
        run: The run folder; it exists.
        model: The network.
        train_set: Augmented training samples.
        val_set: The images to evaluate on.
        accelerator: Device, precision and process group.
        console: Where to show progress.

    Attributes:
        processes: This process among the others.
        step: Steps taken so far.
        stepper: Takes them.
        weights: The network that is evaluated and exported: the running average of the weights, if
            the recipe asks for one.
        best: Step and score (mIoU of the last stage) of the best evaluation so far.
        unreadable: Messages about the samples that this process replaced so far.
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
        self.stepper = Stepper(recipe, model, accelerator, self.processes)
        ema = recipe.run.ema
        self._average = None if ema is None else average_weights(model, ema)
        self.weights = model
        if self._average is not None:
            self.weights = cast(BaseSegmenter, self._average.module)  # a copy of the model
        self._meter = Meter()
        self._start = 0  # step of this trainer's beginning, or resume
        self._timed_steps, self._seconds = 0, 0.0  # since the last row of the log, or a resume
        self._log: RunLog | None = None  # the main process has one

    def run(self) -> Outcome:
        """Train to the end of the schedule, evaluate and export; or stop early on a signal.

        Raises:
            FloatingPointError: The loss or a gradient isn't finite; nothing has been overwritten.
            PnaError: No batch of a whole epoch had a valid pixel.
            TrainingError: Another process, or one that prepares images, has died.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(explain_lost_process(self.processes.rank, self.processes.number))
            stack.enter_context(explain_dead_worker())
            if self.processes.is_main:
                log = RunLog(
                    self.folder,
                    start=self.step,
                    steps=self.recipe.schedule.steps,
                    tensorboard=self.recipe.run.tensorboard,
                    console=self.console,
                )
                self._log = stack.enter_context(log)
            with StopRequest() as stop:
                if self._is_evaluation_due():  # the checkpoint was written just before it
                    self._evaluate()
                if not self._train(stop):
                    return "stopped"
            self._finish()  # Ctrl-C ends this at once: a resume does it again
        return "finished"

    def _train(self, stop: StopRequest) -> bool:
        """Take the remaining steps; False if stopped before the last one."""
        steps, self._start = self.recipe.schedule.steps, self.step
        batches = step_batches(
            self.train_set,
            self.recipe,
            start_step=self.step,
            rank=self.processes.rank,
            world_size=self.processes.number,
        )
        start = time.perf_counter()
        for parts in batches:
            self._note(message for batch in parts for message in batch.unreadable)
            self._meter.add(self.stepper.take(self.step, parts))
            self.step += 1
            if self._average is not None:
                self._average.update_parameters(self.model)
            self._timed_steps += 1
            self._seconds += time.perf_counter() - start
            # All processes stop after the same step, whichever of them got the signal.
            should_stop = self.processes.any(stop.is_set)
            if self._log is not None:
                self._log.advance(self.step)
            if self._is_due(self.recipe.run.log_every):
                self._log_step()
            self._check_labels()
            # A checkpoint comes before the evaluation of its step, so a resume repeats that alone.
            is_evaluation_due = self._is_evaluation_due()
            if should_stop or is_evaluation_due or self._is_due(self.recipe.run.checkpoint_every):
                self.save()
            if should_stop and self.step < steps:
                return False
            if is_evaluation_due and not should_stop:
                self._evaluate()
            start = time.perf_counter()  # so evaluations and checkpoints do not count
        return True

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.recipe.schedule.steps

    def _is_evaluation_due(self) -> bool:
        every = self.recipe.run.eval_every
        return every is not None and self.step > 0 and self._is_due(every)

    def _note(self, unreadable: Iterable[str]) -> None:
        """Keep each message once: a sample comes again in every epoch."""
        self.unreadable = list(dict.fromkeys([*self.unreadable, *unreadable]))

    def _check_labels(self) -> None:
        """Refuse to go on after an epoch, or a whole run, in which no pixel had a class.

        Raises:
            PnaError: All labels were 255.
        """
        num_images = (self.step - self._start) * self.recipe.run.batch_size
        is_enough = num_images >= len(self.train_set) or self.step == self.recipe.schedule.steps
        if is_enough and self.stepper.num_valid == 0:
            raise PnaError(
                f"nothing to learn from: of {num_images} training crops, no pixel has a class, all "
                "labels are 255 (ignored), or of classes of weight 0: check the masks with `pna "
                "data check`, and loss.class_weights"
            )

    def _log_step(self) -> None:
        """Write the mean losses since the last row."""
        # A step's losses are shares of the whole batch: see `Stepper.take`.
        means = self.accelerator.reduce(self._meter.means(), reduction="mean")
        num_steps, seconds = self._timed_steps, self._seconds
        self._timed_steps, self._seconds = 0, 0.0
        if self._log is not None:
            row = {name: float(value) for name, value in means.items()}
            row |= {f"lr/{g['name']}": g["lr"] for g in self.stepper.optimizer.param_groups}
            row["seconds"] = seconds
            row["images_per_second"] = num_steps * self.recipe.run.batch_size / seconds
            self._log.write("train", self.step, row)

    def _evaluate(self) -> None:
        """Evaluate, all processes together; keep the weights if they are the best so far."""
        report = self._score(limit=self.recipe.run.eval_limit)
        score = report.final.miou
        is_best = not math.isnan(score) and (self.best is None or score > self.best[1])
        if is_best:
            self.best = (self.step, score)
        if self._log is not None:
            self._log.write("eval", self.step, _summary(report))
            if is_best:
                weights = self.weights.state_dict()
                payload = {**self._identity(), "score": score, "model": weights}
                save_checkpoint(payload, self.folder / "best.pt")
        self.processes.wait()

    def _score(self, limit: int | None) -> Report:
        """Evaluate; every process takes its share of the images and gets the whole report."""
        if self.processes.number > 1:  # the running statistics of the main one count
            broadcast(list(self.weights.buffers()))
        return evaluate(
            self.weights,
            self.val_set,
            model_name=self.recipe.model.title,
            limit=limit,
            skip_bad=self.recipe.data.skip_bad,
            progress=False,
            num_workers=self.recipe.data.num_workers,
        )

    def save(self) -> None:
        """Write `last.pt`."""
        self._note(self.processes.join(self.unreadable))
        if self.processes.is_main:
            scaler = self.accelerator.scaler
            payload = {
                **self._identity(),
                "best": self.best,
                "model": self.model.state_dict(),
                "average": None if self._average is None else self.weights.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "meter": self._meter.state_dict(),
                "unreadable": self.unreadable,
            }
            save_checkpoint(payload, self.folder / "last.pt")
        self.processes.wait()

    def _identity(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "recipe": self.recipe.flat(),
            "classes": list(self.val_set.labels.classes),
        }

    def restore(self) -> None:
        """Go back to `last.pt`.

        Raises:
            MissingFileError: There is none.
            PnaError: It was written under another recipe or for other classes, or is damaged.
        """
        path = self.folder / "last.pt"
        saved = read_checkpoint(path)
        with explain_misfit(path):
            check_resumable(path, saved, self.recipe.flat(), list(self.val_set.labels.classes))
            # No random states: a step draws from (seed, step, rank) alone.
            self.step, self.best = saved["step"], saved["best"]
            self.unreadable = saved["unreadable"]
            self.model.load_state_dict(saved["model"])
            self.stepper.optimizer.load_state_dict(saved["optimizer"])
            self._meter.load_state_dict(saved["meter"], self.accelerator.device)
            if self._average is not None:
                self.weights.load_state_dict(saved["average"])
                self._average.n_averaged.fill_(self.step + 1)  # the start counts as one
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(saved["scaler"])

    def _finish(self) -> None:
        """Export the weights that `run.export` asks for, and evaluate them in full.

        The samples that couldn't be read, in training or in this evaluation, are listed.
        """
        self._note(self.processes.join(self.unreadable))
        step = self.step
        if self.recipe.run.export == "best" and self.best is not None:
            best = read_checkpoint(self.folder / "best.pt")
            self.weights.load_state_dict(best["model"])
            step = best["step"]
        if self._log is not None:
            with explain_failed_write(self.folder / "model"):
                self.weights.save_pretrained(self.folder / "model")
        # Exported first: an evaluation that fails leaves the model.
        report = self._score(limit=None)
        if self._log is not None:
            with explain_failed_write(self.folder / "evaluation"):
                report.save(self.folder / "evaluation")
            self._note(report.unreadable)
            row: dict[str, Any] = {"exported_step": step, **_summary(report)}
            if self.unreadable:
                row["unreadable"] = self.unreadable
            self._log.write("final", self.step, row)
            for message in self.unreadable:
                self._log.say(f"could not be read, and was replaced or left out: {message}")
        self.processes.wait()


def _summary(report: Report) -> dict[str, object]:
    """Return the mIoU of every stage; None (JSON has no NaN) if nothing was labeled."""
    scores = {name: stage.miou for name, stage in report.stages.items()}
    return {"miou": {name: None if math.isnan(x) else x for name, x in scores.items()}}
