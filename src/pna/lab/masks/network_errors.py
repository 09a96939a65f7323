"""Errors of networks: masks that a network predicts for images it was not trained on.

The scenes are halved, and a network trained on either half segments the foreground of the other.
Networks of several kinds and lengths err in ways that no rule for coarse masks does: missing parts,
parts of neighbors, blobs. A refiner that is to see such errors trains on these masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pna.data.pairs import files_by_stem
from pna.data.randomness import mixed_seed
from pna.errors import PnaError
from pna.files import write_atomically
from pna.lab.fitting import FitSettings, fit
from pna.lab.masks.scenes import Scene, cut_part, read_scene
from pna.model.encoder import EncoderWeights
from pna.model.presets import create_model
from pna.model.segmenter import BaseSegmenter, SegmenterOutput
from pna.train.losses import segmentation_loss

Output = Literal["coarse", "fine"]


@dataclass(frozen=True)
class Variant:
    """A network to take errors from.

    Attributes:
        name: The folder of its masks, before the output's name.
        preset: What it is.
        encoder: Its encoder; None takes the preset's.
        steps: Length of its training.
        outputs: Which of its predictions to keep: P0 or the last.
    """

    name: str
    preset: str
    encoder: str | None
    steps: int
    outputs: tuple[Output, ...]


VARIANTS = (
    Variant("short", "lite-fcn", None, 80, ("fine",)),
    Variant("lite1", "lite-fcn", "tf_efficientnet_lite1", 250, ("fine",)),
    Variant("refined", "lite", None, 250, ("coarse", "fine")),
)
"""Two encoders, three lengths, coarse and refined outputs."""


def write_errors(
    scenes: Sequence[Scene],
    folder: Path,
    variant: Variant,
    *,
    weights: EncoderWeights | None = "imagenet",
    side: int = 256,
    batch_size: int = 8,
) -> None:
    """Train a network on each half of the scenes, and write its masks of the other half.

    Args:
        scenes: To train on and to segment, at least two.
        folder: Gets `NAME-OUTPUT/KIND-STEM.png`, probabilities of the foreground in 255ths, and
            `runs/`, from which an interrupted training goes on.
        variant: The network.
        weights: Pretrained weights of its encoder; None starts at random.
        side: Side of the square parts that it is trained on, in pixels.
        batch_size: Parts a step.

    Raises:
        PnaError: There are fewer than two scenes.
    """
    if len(scenes) < 2:
        raise PnaError(f"expected two scenes or more, to halve them, got {len(scenes)}")
    halves = scenes[::2], scenes[1::2]
    for number, (known, unknown) in enumerate((halves, halves[::-1])):
        torch.manual_seed(number)
        model: BaseSegmenter = create_model(
            variant.preset, 2, encoder=variant.encoder, encoder_weights=weights
        )
        fitted = fit(
            model,
            partial(_losses_at, model, known, side, batch_size, number),
            folder / "runs" / f"{variant.name}-{number}",
            FitSettings(steps=variant.steps),
            encoder=model.encoder_parameters(),
        )
        assert isinstance(fitted, BaseSegmenter)
        for scene in unknown:
            for output, mask in predict(fitted, scene, variant.outputs).items():
                path = folder / f"{variant.name}-{output}" / f"{_stem(scene)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, Image.fromarray(mask).save)


def predict(
    model: BaseSegmenter, scene: Scene, outputs: Sequence[Output]
) -> dict[Output, npt.NDArray[np.uint8]]:
    """Segment the foreground of a scene: (H, W) probabilities in 255ths, by output."""
    image, _ = read_scene(scene)
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        found: SegmenterOutput = model(images)
        logits = {
            "coarse": model.upsample(found.coarse, image.shape[:2]),
            "fine": found.logits,
        }
        return {
            output: (255 * logits[output].softmax(1)[0, 1]).round().to(torch.uint8).numpy()
            for output in outputs
        }


def with_errors(scenes: Sequence[Scene], folder: Path) -> list[Scene]:
    """Add the masks that networks predicted to their scenes.

    Args:
        scenes: Any.
        folder: Written by `write_errors`.

    Raises:
        PnaError: It holds no mask of any of them.
    """
    masks = [
        files_by_stem(part, needed_for="masks of networks")
        for part in sorted(folder.iterdir())
        if part.is_dir() and part.name != "runs"
    ]
    found = [
        replace(scene, errors=tuple(part[_stem(scene)] for part in masks if _stem(scene) in part))
        for scene in scenes
    ]
    if not any(scene.errors for scene in found):
        raise PnaError(f"{folder}: expected masks of networks, as write_errors writes; got none")
    return found


def _stem(scene: Scene) -> str:
    return f"{scene.kind}-{scene.image.stem}"


def _losses_at(
    model: BaseSegmenter, scenes: Sequence[Scene], side: int, batch_size: int, seed: int, step: int
) -> dict[str, Tensor]:
    images, labels = [], []
    for i in range(batch_size):
        rng = np.random.default_rng(mixed_seed("sample", seed, step, i))
        image, ids = cut_part(*read_scene(scenes[int(rng.integers(len(scenes)))]), side, rng)
        images.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
        labels.append(torch.from_numpy(ids > 0).long())
    truth = torch.stack(labels)
    return {"total": segmentation_loss(model(torch.stack(images)), truth, model).total}
