"""A segmenter of three convolutions, runs of seconds to train it in, and accidents that end them.

Run as a script it trains, for the tests that kill a run.
"""

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from torch import Tensor, nn

from pna.data import SegmentationDataset
from pna.labels import LabelSpace
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import PRESETS, Preset
from pna.model.refiner import Refiner
from pna.model.resize import resize
from pna.model.segmenter import BaseSegmenter, RefinerInput
from pna.train import Recipe, TrainingError, load_recipe, parse_recipe, train

Event = Callable[["TinySegmenter"], None]
"""Called before each forward pass of a network, in training and in evaluation."""


class TinyRefiner(Refiner):
    """Two stages at the size of the features, and a bias table."""

    num_stages = 2

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.correct = nn.Conv2d(8, num_classes, 1)
        self.bias_table = nn.Parameter(torch.zeros(1, 3, 3))

    def forward(
        self, features: list[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        first = resize(coarse, features[0].shape[-2:], "nearest") * (1 + self.bias_table.mean())
        return [first, first + self.correct(features[0])]


class TinySegmenter(BaseSegmenter):
    """Batch norm, dropout, a bias table, two stages and an auxiliary head.

    `is_frozen` fixes batch norm and leaves out dropout: the gradient of an image is its own affair
    then. Such a network computes in float64.

    Attributes:
        calls: Forward passes so far, in training and in evaluation.
    """

    def __init__(
        self,
        config: ModelConfig,
        labels: LabelSpace,
        weights: EncoderWeights | None = None,
        *,
        is_frozen: bool = False,
        event: Event | None = None,
    ) -> None:
        super().__init__(labels, mean=(0.5,) * 3, std=(0.5,) * 3)
        self.config = config
        self.is_frozen = is_frozen
        self.event = event
        self.calls = {"train": 0, "eval": 0}
        norm, dropout = nn.BatchNorm2d(8), 0.0 if is_frozen else 0.3
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), norm, nn.ReLU(), nn.Dropout(dropout)
        )
        self.coarse_head = nn.Conv2d(8, self.num_classes, 1)
        self.aux_head = nn.Conv2d(8, self.num_classes, 1)
        self.refiner = TinyRefiner(self.num_classes)
        if is_frozen:
            norm.running_mean.normal_()
            self.double()

    strides = (4,)
    divisor = 8
    origin = "three convolutions"

    def encoder_parameters(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.encoder.named_parameters(prefix="encoder"))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.is_frozen:
            self.encoder.eval()
        return self

    def encode(self, images: Tensor) -> RefinerInput:
        self.calls["train" if self.training else "eval"] += 1
        if self.event is not None:
            self.event(self)
        features = self.encoder(images)
        coarse = nn.functional.avg_pool2d(self.coarse_head(features), 2)
        aux = {"aux": self.aux_head(features)} if self.training else {}
        return RefinerInput([features], coarse, aux)


def build_frozen(name: str, *parts: Any) -> BaseSegmenter:
    """A real network in float64, its batch norm and dropout in evaluation mode for good."""
    model = PRESETS[name].build(*parts)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return model.double()


def presets_with(event: Event | None = None) -> dict[str, Preset]:
    """The presets of the tests, beside the library's: "tiny", "frozen" and "frozen-lite"."""
    return {
        **PRESETS,
        "tiny": Preset(partial(TinySegmenter, event=event), "none"),
        "frozen": Preset(partial(TinySegmenter, event=event, is_frozen=True), "none"),
        "frozen-lite": Preset(
            partial(build_frozen, "lite"),
            PRESETS["lite"].encoder,
            PRESETS["lite"].options,
            PRESETS["lite"].pna,
        ),
    }


def tiny_recipe(root: Path, **changes: Any) -> Recipe:
    """A run of a second; changes by dotted name with `__` for the dot."""
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
    return parse_recipe(tree, presets=presets_with())


def tiny_train(
    recipe: Recipe, run: Path, *, event: Event | None = None, console: Console | None = None
) -> str:
    """Train a new run, or continue the one that is there; quiet unless a console is given."""
    torch.set_num_threads(1)
    resume = (run / "last.pt").is_file()
    quiet = Console(file=io.StringIO())
    return train(recipe, run, resume=resume, presets=presets_with(event), console=console or quiet)


def in_step(number: int, act: Callable[[TinySegmenter], object]) -> Event:
    """The event that does something in the training step of that number (from 1)."""
    return lambda model: act(model) if model.training and model.calls["train"] == number else None


def kill(number: int = signal.SIGKILL) -> None:
    """End this process without warning."""
    os.kill(os.getpid(), number)


def die_while_saving(model: TinySegmenter) -> None:
    """The next checkpoint is written to its half."""

    def write_half(payload: Any, file: Any) -> None:
        file.write(b"half of a checkpoint")
        file.flush()
        kill()

    torch.save = write_half  # type: ignore[assignment]


def die_while_evaluating(model: TinySegmenter) -> None:
    if model.calls["eval"] == 2:
        kill()


def second_drifts(model: TinySegmenter) -> None:
    """The second process loses its running statistics in every training step."""
    if model.training and os.environ.get("RANK") == "1":
        for buffer in model.encoder.buffers():
            if buffer.is_floating_point():
                buffer.fill_(torch.nan)


def if_second(act: Callable[[], None]) -> Callable[[TinySegmenter], None]:
    return lambda model: act() if os.environ.get("RANK") == "1" else None


ACCIDENTS: dict[str, Event | None] = {
    "none": None,
    "worker-dies": None,
    "killed": in_step(5, lambda model: kill()),
    "killed-while-saving": in_step(4, die_while_saving),
    "killed-while-evaluating": die_while_evaluating,
    "second-drifts": second_drifts,
    "second-dies": in_step(5, if_second(kill)),
    "second-stops": in_step(5, if_second(partial(kill, signal.SIGSTOP))),
}


def kill_workers() -> None:
    """Processes that prepare images die at their third image, as if memory had run out."""
    read, seen, here = SegmentationDataset.read_raw, [], os.getpid()

    def read_or_die(dataset: SegmentationDataset, index: int) -> Any:
        seen.append(index)
        if len(seen) == 3 and os.getpid() != here:
            kill()
        return read(dataset, index)

    SegmentationDataset.read_raw = read_or_die  # type: ignore[method-assign]


def launch_two(
    recipes: Mapping[str, Recipe], folder: Path, accident: str = "none", *, num_nodes: int = 1
) -> list["subprocess.CompletedProcess[str]"]:
    """Run recipes by name in two processes, one after the other, into `folder / "runs" / name`.

    Returns:
        The end of each node's launcher.
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
                *("--master-port", str(port), __file__, settings, folder / "runs", accident),
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


def run_apart(recipe: Recipe, folder: Path, accident: str) -> "subprocess.CompletedProcess[str]":
    """Run a recipe in a process of its own, into `folder / "run"`."""
    settings = folder / "recipe.json"
    settings.write_text(recipe.model_dump_json())
    return subprocess.run(
        [sys.executable, __file__, settings, folder / "run", accident],
        check=False,
        capture_output=True,
        text=True,
    )


def main(settings: str, run: str, accident: str) -> None:
    """Run a recipe, or a folder of recipes one after the other."""
    if accident == "worker-dies":
        kill_workers()
    given = Path(settings)
    for file in sorted(given.glob("*.json")) if given.is_dir() else [given]:
        recipe = load_recipe(file, presets=presets_with())
        folder = Path(run) / file.stem if given.is_dir() else Path(run)
        folder.parent.mkdir(exist_ok=True)
        print(tiny_train(recipe, folder, event=ACCIDENTS[accident]))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except TrainingError as error:
        sys.exit(f"ended: {error}")
