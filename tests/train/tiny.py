"""A network of two convolutions that keeps the contract of `Segmenter`, and runs to try it in.

Run as a script it trains, for the tests that kill a run.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from rich.console import Console
from torch import Tensor, nn

from pna.evaluate import Report
from pna.labels import VOC, LabelSpace
from pna.train.assemble import create_network, create_split
from pna.train.batches import augment
from pna.train.faults import TrainingError
from pna.train.loop import Trainer
from pna.train.processes import create_accelerator
from pna.train.recipe import Recipe


class Output(NamedTuple):
    logits: Tensor
    coarse: Tensor
    stages: list[Tensor]
    aux: dict[str, Tensor]


class TinySegmenter(nn.Module):
    """Batch norm, dropout, a bias table, two stages and an auxiliary head.

    `is_frozen` fixes batch norm and leaves out dropout: what a picture gives is its own affair
    then. Such a network computes in float64.
    """

    def __init__(self, labels: LabelSpace = VOC, *, is_frozen: bool = False) -> None:
        super().__init__()
        self.labels = labels
        self.num_classes = labels.num_classes
        self.refiner = None  # nothing with a loss of its own
        self.is_frozen = is_frozen
        norm, dropout = nn.BatchNorm2d(8), 0.0 if is_frozen else 0.3
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), norm, nn.ReLU(), nn.Dropout(dropout)
        )
        self.coarse_head = nn.Conv2d(8, self.num_classes, 1)
        self.aux_head = nn.Conv2d(8, self.num_classes, 1)
        self.stage_head = nn.Conv2d(8, self.num_classes, 1)
        self.bias_table = nn.Parameter(torch.zeros(1, 3, 3))
        if is_frozen:
            norm.running_mean.normal_()
            self.double()

    def encoder_parameters(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.encoder.named_parameters(prefix="encoder"))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        return self

    def forward(self, pictures: Tensor, *, stages: bool = False) -> Output:
        features = self.encoder(pictures.to(self.bias_table.dtype))
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


def frozen(model: nn.Module) -> nn.Module:
    """The network in float64, its batch norm and dropout in evaluation mode for good."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    model.register_forward_pre_hook(lambda _, pictures: pictures[0].double())
    return model.double()


def tiny_trainer(
    recipe: Recipe, run: Path, *, kind: type[Trainer] = Trainer, console: Console | None = None
) -> Trainer:
    """A trainer on a new run, or on the checkpoint that is there.

    The presets are "tiny", "frozen", and real ones, which are frozen too.
    """
    torch.set_num_threads(1)
    run.mkdir(exist_ok=True)
    torch.manual_seed(recipe.run.seed)
    train_set = create_split(recipe.data, "train")
    if recipe.model.preset in ("tiny", "frozen"):
        model = TinySegmenter(train_set.labels, is_frozen=recipe.model.preset == "frozen")
    else:
        model = frozen(create_network(recipe.model, train_set.labels, pretrained=True))
    trainer = kind(
        recipe,
        run,
        model=model,
        train_set=augment(train_set, recipe.data, seed=recipe.run.seed),
        val_set=create_split(recipe.data, "val"),
        accelerator=create_accelerator(recipe, cpu=True),
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


class KilledWhileEvaluating(Trainer):
    """Dies without warning in its first evaluation, on the second picture."""

    def _score(self, limit: int | None) -> Any:
        load, seen = self.val_set.load, []

        def load_or_die(index: int) -> Any:
            seen.append(index)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return load(index)

        self.val_set.load = load_or_die  # type: ignore[method-assign]
        return super()._score(limit)


class SecondDies(Trainer):
    """The second process dies without warning in its fifth step, before it exchanges gradients."""

    number = signal.SIGKILL

    def _take_step(self, parts: Any) -> None:
        if self.step == 4 and self.processes.rank == 1:
            os.kill(os.getpid(), self.number)
        super()._take_step(parts)


class SecondStops(SecondDies):
    """The second process gets stuck instead: it is there, and does nothing."""

    number = signal.SIGSTOP


class WorkerDies(Trainer):
    """A process that prepares pictures dies at its third picture, as if memory had run out."""

    def __init__(self, *arguments: Any, **parts: Any) -> None:
        super().__init__(*arguments, **parts)
        read, seen, here = self.train_set.dataset.read, [], os.getpid()

        def read_or_die(index: int) -> Any:
            seen.append(index)
            if len(seen) == 3 and os.getpid() != here:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(index)

        self.train_set.dataset.read = read_or_die  # type: ignore[method-assign]


class Sharded(Trainer):
    """FSDP as on GPUs. Accelerate offers its switch there alone, so it is turned on by hand."""

    def __init__(self, *arguments: Any, accelerator: Accelerator, **parts: Any) -> None:
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
        parts["model"].to(memory_format=torch.channels_last)  # as real networks are
        super().__init__(*arguments, accelerator=accelerator, **parts)
        sizes = [(p.to_local().numel(), p.numel()) for p in self.model.parameters()]
        held, whole = map(sum, zip(*sizes, strict=True))
        assert 0.4 < held / whole < 0.6, f"expected half of the weights here, got {held} of {whole}"


class Unfinished(Trainer):
    """Neither exports nor evaluates at the end."""

    def _finish(self) -> None:
        pass


KINDS = {
    "whole": Trainer,
    "drifted": DriftedTrainer,
    "unfinished": Unfinished,
    "sharded": Sharded,
    "killed": KilledTrainer,
    "killed-while-saving": KilledWhileSaving,
    "killed-while-evaluating": KilledWhileEvaluating,
    "second-dies": SecondDies,
    "second-stops": SecondStops,
    "worker-dies": WorkerDies,
}


def launch_two(
    recipes: Mapping[str, Recipe], folder: Path, kind: str = "whole", *, num_nodes: int = 1
) -> list["subprocess.CompletedProcess[str]"]:
    """Run recipes by name in two processes, one after the other, into `folder / "runs" / name`.

    Returns:
        What came of each node.
    """
    settings = folder / "recipes"
    settings.mkdir()
    for name, recipe in recipes.items():
        (settings / f"{name}.json").write_text(recipe.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes", str(num_nodes), "--nproc-per-node", str(2 // num_nodes)),
                *("--node-rank", str(node), "--master-addr", "127.0.0.1"),
                *("--master-port", str(port), __file__, settings, folder / "runs", kind),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for node in range(num_nodes)
    ]
    outputs = [node.communicate() for node in nodes]
    return [
        subprocess.CompletedProcess(node.args, node.returncode, *output)
        for node, output in zip(nodes, outputs, strict=True)
    ]


def main(settings: str, run: str, kind: str) -> None:
    """Run a recipe, or a folder of recipes one after the other."""
    given = Path(settings)
    for file in sorted(given.glob("*.json")) if given.is_dir() else [given]:
        recipe = Recipe.model_validate(json.loads(file.read_text()))
        folder = Path(run) / file.stem if given.is_dir() else Path(run)
        folder.parent.mkdir(exist_ok=True)
        print(tiny_trainer(recipe, folder, kind=KINDS[kind]).run())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TrainingError as error:
        sys.exit(f"ended: {error}")
