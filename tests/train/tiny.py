"""A network of two convolutions that keeps the contract of `Segmenter`, and runs to try it in.

Run as a script it trains, for the tests that kill a run.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from pna.data import create_dataset
from pna.evaluate import Report
from pna.labels import VOC, LabelSpace
from pna.train.batches import augment
from pna.train.loop import Trainer
from pna.train.recipe import Recipe


class Output(NamedTuple):
    logits: Tensor
    coarse: Tensor
    stages: list[Tensor]
    aux: dict[str, Tensor]


class TinySegmenter(nn.Module):
    """Batch norm, dropout, a bias table, two stages and an auxiliary head.

    `is_plain` leaves out batch norm and dropout: what a picture gives is its own affair then.
    """

    def __init__(self, labels: LabelSpace = VOC, *, is_plain: bool = False) -> None:
        super().__init__()
        self.labels = labels
        self.num_classes = labels.num_classes
        norm, dropout = (nn.Identity(), 0.0) if is_plain else (nn.BatchNorm2d(8), 0.3)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), norm, nn.ReLU(), nn.Dropout(dropout)
        )
        self.coarse_head = nn.Conv2d(8, self.num_classes, 1)
        self.aux_head = nn.Conv2d(8, self.num_classes, 1)
        self.stage_head = nn.Conv2d(8, self.num_classes, 1)
        self.bias_table = nn.Parameter(torch.zeros(1, 3, 3))

    def forward(self, pictures: Tensor, *, stages: bool = False) -> Output:
        features = self.encoder(pictures)
        coarse = F.avg_pool2d(self.coarse_head(features), 2, ceil_mode=True)
        first = F.interpolate(coarse, features.shape[-2:]) * (1 + self.bias_table.mean())
        last = first + self.stage_head(features)
        return Output(
            logits=self.upsample(last, pictures.shape[-2:]),
            coarse=coarse,
            stages=[first, last] if self.training or stages else [],
            aux={"aux": self.aux_head(features)} if self.training else {},
        )

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.state_dict(), folder / "weights.pt")


def tiny_recipe(root: Path, **changes: Any) -> Recipe:
    """A run of a few seconds; changes by dotted name with `__` for the dot."""
    tree: dict[str, Any] = {
        "model": {"preset": "tiny"},
        "data": {"name": "voc2012", "root": str(root), "crop": [64, 64], "num_workers": 0},
        "schedule": {"steps": 8, "warmup_steps": 2},
        "run": {
            "batch_size": 2,
            "ema": 0.9,
            "eval_every": 4,
            "checkpoint_every": 3,
            "log_every": 2,
            "tensorboard": False,
        },
    }
    for name, value in changes.items():
        section, key = name.split("__")
        tree.setdefault(section, {})[key] = value
    return Recipe.model_validate(tree)


def tiny_trainer(
    recipe: Recipe, run: Path, *, kind: type[Trainer] = Trainer, console: Console | None = None
) -> Trainer:
    """A trainer on a new run, or on the checkpoint that is there; preset "plain" has no norm."""
    torch.set_num_threads(1)
    run.mkdir(exist_ok=True)
    torch.manual_seed(recipe.run.seed)
    train_set = create_dataset("voc2012", recipe.data.root, "train")
    trainer = kind(
        recipe,
        run,
        model=TinySegmenter(train_set.labels, is_plain=recipe.model.preset == "plain"),
        train_set=augment(train_set, recipe.data, seed=recipe.run.seed),
        val_set=create_dataset("voc2012", recipe.data.root, "val"),
        accelerator=Accelerator(mixed_precision=recipe.run.precision, cpu=True),
        console=console or Console(),
    )
    if (run / "last.pt").is_file():
        trainer.restore()
    return trainer


class KilledTrainer(Trainer):
    """Dies without warning after its fifth step, before anything is written about it."""

    def _take_step(self, parts: Any) -> None:
        super()._take_step(parts)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


class KilledWhileSaving(Trainer):
    """Dies without warning in the middle of its second checkpoint."""

    def save(self) -> None:
        if self.step > 3:
            torch.save = self._write_half  # type: ignore[assignment]
        super().save()

    @staticmethod
    def _write_half(payload: Any, file: Any) -> None:
        file.write(b"half of a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


class DriftedTrainer(Trainer):
    """Loses the running statistics of its second process before every evaluation."""

    def _score(self, limit: int | None) -> Report:
        if self.accelerator.process_index == 1:
            for buffer in self.weights.buffers():
                if buffer.is_floating_point():
                    buffer.fill_(torch.nan)
        return super()._score(limit)


KINDS = {
    "drifted": DriftedTrainer,
    "whole": Trainer,
    "killed": KilledTrainer,
    "killed-while-saving": KilledWhileSaving,
}


if __name__ == "__main__":
    settings = Recipe.model_validate(json.loads(Path(sys.argv[1]).read_text()))
    print(tiny_trainer(settings, Path(sys.argv[2]), kind=KINDS[sys.argv[3]]).run())
