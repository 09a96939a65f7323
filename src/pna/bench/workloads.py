"""One model doing one thing: what the suites time, and what a process of its own can repeat."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pna.bench.clock import Call
from pna.model.checkpoints import create_or_load
from pna.model.segmenter import BaseSegmenter
from pna.train.heap import keep_freed_memory
from pna.train.losses import Scope
from pna.train.optimizer import create_optimizer
from pna.train.recipe import LossSection, OptimizerSection
from pna.train.step import Objective

Task = Literal["inference", "training"]


@dataclass(frozen=True)
class Workload:
    """One model doing one thing.

    Attributes:
        model: A preset or a saved model.
        task: Logits at the picture's size, or a whole training step.
        size: (H, W) of the pictures.
        batch: Pictures per call.
        device: "cpu", "cuda" or "cuda:N".
        encoder: timm model to build a preset on; its own by default.
        compiled: Run through `torch.compile`, as one graph.
        amp: Mixed precision, float16 on CUDA and bfloat16 on a CPU.
        channels_last: Layout of weights and pictures.
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


def prepare(work: Workload) -> Call:
    """Build the model, with random weights, and return the call that does the work.

    Raises:
        ValueError: There is no such model or encoder.
    """
    model, pictures = build(work), make_pictures(work)
    if work.task == "inference":
        return inference(model, pictures, work)
    return _training(model.train(), pictures, work)


def build(work: Workload) -> BaseSegmenter:
    """The model, in its place and layout; a preset with random weights."""
    torch.manual_seed(0)
    model = create_or_load(work.model, encoder=work.encoder)
    return model.to(work.device).to(memory_format=_layout(work))


def make_pictures(work: Workload) -> Tensor:
    """A batch of noise, (B, 3, H, W) in [0, 1]."""
    pictures = torch.rand(work.batch, 3, *work.size, device=work.device)
    return pictures.contiguous(memory_format=_layout(work))


def inference(model: BaseSegmenter, pictures: Tensor, work: Workload) -> Call:
    """The call that segments the pictures: logits at their size."""
    run = _compile(model.eval(), work)

    @torch.inference_mode()
    def infer() -> Tensor:
        with _autocast(work):
            logits: Tensor = run(pictures).logits
        return logits

    return infer


def _training(model: BaseSegmenter, pictures: Tensor, work: Workload) -> Call:
    """Forward, the recipes' loss (cross-entropy of P0, all stages, auxiliary), backward, AdamW."""
    objective = Objective(model, LossSection())
    scope = Scope(work.batch * work.size[0] * work.size[1])  # no pixel is ignored

    def total_loss(pictures: Tensor, labels: Tensor) -> Tensor:
        # The total alone: inductor takes the only part of a loss, detached, for its total.
        loss: Tensor = objective(pictures, labels, scope)[0]
        return loss

    run = _compile(total_loss, work)
    optimizer = create_optimizer(model, OptimizerSection())
    kind = torch.device(work.device).type
    if kind == "cpu":
        keep_freed_memory()  # as the trainer does
    scaler = torch.amp.GradScaler(kind, enabled=work.amp and kind == "cuda")
    shape = (work.batch, *work.size)
    labels = torch.randint(model.num_classes, shape, device=work.device)

    def step() -> None:
        with _autocast(work):
            loss = run(pictures, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def _layout(work: Workload) -> torch.memory_format:
    return torch.channels_last if work.channels_last else torch.contiguous_format


def _compile(forward: Callable[..., Any], work: Workload) -> Callable[..., Any]:
    # One graph or an error: a half-compiled model would be timed as a compiled one.
    return torch.compile(forward, fullgraph=True, dynamic=False) if work.compiled else forward


def _autocast(work: Workload) -> torch.autocast:
    kind = torch.device(work.device).type
    dtype = torch.float16 if kind == "cuda" else torch.bfloat16
    return torch.autocast(kind, dtype=dtype, enabled=work.amp)
