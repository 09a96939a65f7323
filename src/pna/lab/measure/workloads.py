"""One model at one task: the calls that are timed, here or in another process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pna.lab.baselines import PRESETS
from pna.lab.measure.timing import Call
from pna.model.loading import create_or_load
from pna.model.segmenter import BaseSegmenter
from pna.train.losses import segmentation_loss
from pna.train.malloc import keep_freed_memory
from pna.train.optimizer import create_optimizer
from pna.train.recipe import OptimizerSection

Task = Literal["inference", "training"]


@dataclass(frozen=True)
class Workload:
    """One model at one task.

    Attributes:
        model: A preset, which gets random weights, or a saved model.
        task: Logits at the image's size, or a whole training step.
        size: (H, W) of the images.
        batch: Images per call.
        device: "cpu", "cuda" or "cuda:N".
        encoder: timm model to build a preset on; its own by default.
        compiled: Whether to use `torch.compile`, as one graph.
        amp: Mixed precision: float16 on CUDA, bfloat16 on a CPU.
        channels_last: Memory format of weights and images.
    """

    model: str
    task: Task
    size: tuple[int, int]
    batch: int
    device: str
    encoder: str | None = None
    compiled: bool = False
    amp: bool = False
    channels_last: bool = True

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of weights and images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Return the context of the forward pass."""
        kind = torch.device(self.device).type
        dtype = torch.float16 if kind == "cuda" else torch.bfloat16
        return torch.autocast(kind, dtype=dtype, enabled=self.amp)

    def prepare(self) -> Call:
        """Build the model and return the call that does the work.

        Raises:
            PnaError: There is no such model or encoder.
        """
        model, images = build(self), make_images(self)
        if self.task == "inference":
            return inference(model, images, self)
        return _training(model.train(), images, self)


def build(work: Workload) -> BaseSegmenter:
    """Build the model, on its device and in its memory format."""
    torch.manual_seed(0)
    model = create_or_load(work.model, encoder=work.encoder, presets=PRESETS)
    return model.to(work.device).to(memory_format=work.memory_format)


def make_images(work: Workload) -> Tensor:
    """Make a batch of noise, (B, 3, H, W) in [0, 1]."""
    images = torch.rand(work.batch, 3, *work.size, device=work.device)
    return images.contiguous(memory_format=work.memory_format)


def inference(model: BaseSegmenter, images: Tensor, work: Workload) -> Call:
    """Return the call that segments the images: logits at their size."""
    run = _compile(model.eval(), work)

    @torch.inference_mode()
    def infer() -> Tensor:
        with work.autocast():
            logits: Tensor = run(images).logits
        return logits

    return infer


def _training(model: BaseSegmenter, images: Tensor, work: Workload) -> Call:
    """Return the call that takes a training step: forward, the recipes' loss, backward, AdamW."""
    num_pixels = float(work.batch * work.size[0] * work.size[1])  # all are valid

    def total_loss(images: Tensor, labels: Tensor) -> Tensor:
        # Without the parts: with one part alone, inductor returns it, detached, for the total.
        output = model(images)
        return segmentation_loss(output, labels, model, num_valid=num_pixels).total

    run = _compile(total_loss, work)
    optimizer = create_optimizer(model, OptimizerSection())
    kind = torch.device(work.device).type
    if kind == "cpu":
        keep_freed_memory()  # as the trainer does
    scaler = torch.amp.GradScaler(kind, enabled=work.amp and kind == "cuda")
    labels = torch.randint(model.num_classes, (work.batch, *work.size), device=work.device)

    def step() -> None:
        with work.autocast():
            loss = run(images, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def _compile(forward: Callable[..., Any], work: Workload) -> Callable[..., Any]:
    # One graph or an error: a partly compiled model is no measurement of a compiled one.
    return torch.compile(forward, fullgraph=True, dynamic=False) if work.compiled else forward
