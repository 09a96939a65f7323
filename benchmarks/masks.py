"""Train mask refiners and their controls, and score them on held-out and on real masks.

    python benchmarks/masks.py errors FOLDER --data PATH
    python benchmarks/masks.py train RUN --data PATH [--network refiner] [--steps N] [--seed S]
        [--errors FOLDER] [--conventions 0]
    python benchmarks/masks.py score RUN ... --data PATH [--strength S] [--radius PX] [--held-out]
    python benchmarks/masks.py bundle RUN

In place of a RUN, `score` takes `guided-filter` and `dense-crf` too, and `bundled`.

`errors` trains networks on halves of the scenes and writes their masks of the other halves, which
`train` then takes for some of its examples. Both continue a run that was interrupted. Networks:
`refiner`, `decoder` and `decoder-features` (convolutional decoders of its size; the second hands
its features on), `cascadepsp` (a quarter of its width, on the same encoder). `bundle` writes a
refiner's weights to the package.

`score` writes `results/masks.json` and `masks.md`: on scenes that were held out, made coarse by a
rule that no training used; on right masks, which are to stay; and on other networks' masks.

PATH holds `crisp` (folders images, masks and objects), `hrcds` (images, masks) and `realmasks` (a
folder for each set with images, gt and a folder for each method).
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor
from trained import read_results, write_results

from pna.cli.demo import IMAGES
from pna.files import write_atomically
from pna.inference.masks import refine_mask
from pna.inference.refine import WEIGHTS, bundled_mask_refiner
from pna.lab.fitting import SETTINGS, FitSettings, fit
from pna.lab.machine import describe
from pna.lab.masks.calibration import calibrate, calibration_error
from pna.lab.masks.cascadepsp import CascadePSP
from pna.lab.masks.cascadepsp_loss import cascadepsp_loss
from pna.lab.masks.cascadepsp_steps import refine_with
from pna.lab.masks.coarsen import coarsen
from pna.lab.masks.decoder import create_mask_decoder
from pna.lab.masks.fields import FloatArray
from pna.lab.masks.network_errors import VARIANTS, with_errors, write_errors
from pna.lab.masks.scenes import Scene, cut_scene, find_colored, find_crisp, split
from pna.lab.masks.scoring import (
    Pair,
    RefineForeground,
    SetScores,
    read_pairs,
    score_set,
)
from pna.lab.masks.training import CONVENTIONS, Batch, draw_batch, refinement_losses
from pna.labels import DAMAGE
from pna.model.encoder import EncoderWeights
from pna.refinement.dense_crf import dense_crf
from pna.refinement.guided_filter import guided_filter
from pna.refinement.masks import RefineConfig
from pna.refinement.network import MaskRefiner, create_mask_refiner

NETWORK = "network.pt"
"""File of the trained weights in a run's folder."""
ImageArray = npt.NDArray[np.uint8]
BUNDLED = "bundled"
KINDS = ("osie", "ccp", "nuclei")
"""Kinds of scenes whose terms allow a model that is redistributed."""
REAL = {
    "sod/Amulet": ("sod", "Amulet"),
    "sod/DSS": ("sod", "DSS"),
    "sod/PiCANet": ("sod", "PiCANet"),
    "osie/cfps": ("osie", "cfps"),
    "voc/pred": ("voc", "pred"),
    "leukocyte/pred": ("leukocyte", "pred"),
    "ship/pred": ("ship", "pred"),
}
BELIEF = 0.8
"""Probability of what a mask says, for a dense CRF, which moves no certain pixel."""
SIZE = (384, 384)
DEGREES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Network:
    """How a network is made, trained and run.

    Attributes:
        create: Makes it, with the weights of its encoder that are named, or at random.
        losses: Computes its losses on a batch.
        refine: Makes the function that refines a mask by it.
        encoder: How the names of its encoder's parameters begin.
    """

    create: Callable[[EncoderWeights | None], Any]
    losses: Callable[[Any, Batch], Mapping[str, Tensor]]
    refine: Callable[[Any, RefineConfig], RefineForeground]
    encoder: tuple[str, ...] = ("encoder.",)


def refine_by(network: MaskRefiner, config: RefineConfig) -> RefineForeground:
    """Make the function that refines a mask by a refiner, or by a decoder in its place."""

    def refine(image: ImageArray, given: FloatArray) -> FloatArray:
        return refine_mask(network, image, given > 0.5, config).mask.astype(np.float32)

    return refine


def refine_by_cascadepsp(network: CascadePSP, config: RefineConfig) -> RefineForeground:
    """Make the function that refines a mask by CascadePSP, which has no strength and no radius."""

    def refine(image: ImageArray, given: FloatArray) -> FloatArray:
        # At the images' own size, as it was trained: 900 pixels would enlarge them.
        return refine_with(network, image, given > 0.5, side=min(900, max(image.shape[:2])))

    return refine


NETWORKS: Mapping[str, Network] = {
    "refiner": Network(
        lambda weights: create_mask_refiner(encoder_weights=weights), refinement_losses, refine_by
    ),
    "decoder": Network(
        lambda weights: create_mask_decoder(pass_features=False, encoder_weights=weights),
        refinement_losses,
        refine_by,
    ),
    "decoder-features": Network(
        lambda weights: create_mask_decoder(pass_features=True, encoder_weights=weights),
        refinement_losses,
        refine_by,
    ),
    "cascadepsp": Network(
        lambda weights: CascadePSP(encoder="tf_efficientnet_lite0", width=0.25, weights=weights),
        lambda network, batch: {
            "passes": cascadepsp_loss(network(batch.images, batch.given), batch.truth)
        },
        refine_by_cascadepsp,
        ("stem.", "body."),
    ),
}


@dataclass(frozen=True)
class RunSettings:
    """What a run is: written beside its weights."""

    network: str
    steps: int
    seed: int
    has_errors: bool
    size: tuple[int, int] = (256, 256)
    batch_size: int = 8
    conventions: float = CONVENTIONS


def find_scenes(data: Path) -> tuple[list[Scene], list[Scene]]:
    """Scenes to train on, and held-out ones; none is of the real masks, or bundled."""
    scored = [f"osie_{path.stem}" for path in (data / "realmasks" / "osie" / "images").iterdir()]
    scenes = find_crisp(data / "crisp", KINDS, without=scored)
    bundled = [path.stem for path in (IMAGES / "damage" / "images").iterdir()]
    damage = find_colored(data / "hrcds", "damage", DAMAGE)
    return split([*scenes, *(scene for scene in damage if scene.image.stem not in bundled)])


def train(run: Path, data: Path, settings: RunSettings, errors: Path | None) -> None:
    """Train, or go on training."""
    scenes, held_out = find_scenes(data)
    if errors is not None:
        scenes = with_errors(scenes, errors)
    torch.manual_seed(settings.seed)
    about = NETWORKS[settings.network]
    network = about.create("imagenet")
    encoder = {name for name, _ in network.named_parameters() if name.startswith(about.encoder)}
    draw = partial(
        draw_batch,
        scenes,
        size=settings.size,
        batch_size=settings.batch_size,
        seed=settings.seed,
        conventions=settings.conventions,
    )
    fitted = fit(
        network,
        lambda step: about.losses(network, draw(step)),
        run,
        FitSettings(steps=settings.steps),
        encoder=encoder,
        about=asdict(settings),
    )
    if isinstance(fitted, MaskRefiner):
        fitted.temperature.fill_(calibrate(fitted, [draw_batch_of(held_out, i) for i in range(8)]))
    write_atomically(run / NETWORK, partial(torch.save, fitted.state_dict()))


def draw_batch_of(scenes: list[Scene], number: int) -> Any:
    """A batch of held-out scenes."""
    return draw_batch(scenes, number, size=(256, 256), batch_size=8, seed=10_000)


def held_out_pairs(scenes: list[Scene], degree: float | None) -> Iterator[Pair]:
    """A part of each held-out scene with a mask of a degree of coarseness; None is a right one."""
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng((20_000, number))
        example = cut_scene([scene], SIZE, rng)
        given = example.mask.astype(np.float32)
        if degree is not None:
            given = coarsen(example.mask, rng, rule="vertices_and_boxes", amount=degree)
        yield Pair(scene.image.stem, example.image, given, example.mask.astype(np.uint8))


def filter_guided(image: ImageArray, given: FloatArray) -> FloatArray:
    """Refine a mask by the guided filter."""
    refined: FloatArray = guided_filter(image, given[None])[0]
    return refined


def refine_by_crf(image: ImageArray, given: FloatArray) -> FloatArray:
    """Refine a mask by the dense CRF."""
    foreground = given.clip(1 - BELIEF, BELIEF)
    refined: FloatArray = dense_crf(image, np.stack([1 - foreground, foreground]))[1]
    return refined


FILTERS: Mapping[str, RefineForeground] = {
    "guided-filter": filter_guided,
    "dense-crf": refine_by_crf,
}


def score(refine: RefineForeground, data: Path, *, real: bool) -> dict[str, SetScores]:
    """Score a refinement on held-out scenes, and on other networks' masks where `real`."""
    _, held_out = find_scenes(data)
    scores = {"right masks": score_set(held_out_pairs(held_out, None), refine)}
    for degree in DEGREES:
        name = f"held out, degree {degree:g}"
        scores[name] = score_set(held_out_pairs(held_out, degree), refine)
    for name, (folder, method) in REAL.items() if real else ():
        scores[name] = score_set(read_pairs(data / "realmasks" / folder, method), refine)
    return scores


def load_run(run: Path) -> tuple[Any, RunSettings]:
    """The trained network of a run, and its settings."""
    values = json.loads((run / SETTINGS).read_text(encoding="utf-8"))
    settings = RunSettings(**{**values, "size": tuple(values["size"])})
    network = NETWORKS[settings.network].create(None)
    network.load_state_dict(torch.load(run / NETWORK, weights_only=True))
    return network.eval(), settings


def open_way(run: Path, config: RefineConfig, data: Path) -> tuple[RefineForeground, Any]:
    """What refines a mask by a run, a filter or the bundled network; and what is said of it."""
    name = str(run)
    if name in FILTERS:
        return FILTERS[name], {}
    about: dict[str, Any] = {"config": asdict(config)}
    if name == BUNDLED:
        network, kind = bundled_mask_refiner(torch.device("cpu")), NETWORKS["refiner"]
    else:
        network, settings = load_run(run)
        kind = NETWORKS[settings.network]
        about["settings"] = asdict(settings)
    if isinstance(network, MaskRefiner):
        _, held_out = find_scenes(data)
        # Other batches than those that the temperature was fitted on.
        batches = [draw_batch_of(held_out, i) for i in range(8, 16)]
        error = calibration_error(network, batches, temperature=float(network.temperature))
        about |= {"temperature": float(network.temperature), "calibration_error": error}
    return kind.refine(network, config), about


def bundle(run: Path) -> None:
    """Write a run's weights to the package, in half precision but for norm statistics."""
    network, _ = load_run(run)
    learned = {name for name, _ in network.named_parameters()}
    state = {
        name: tensor.half() if name in learned else tensor
        for name, tensor in network.state_dict().items()
    }
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, WEIGHTS)


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Mask refiners",
        "",
        "Made by `python benchmarks/masks.py score RUN ... --data PATH`. IoU / boundary IoU / mBA",
        "in per cent, before and after; share of the images whose IoU fell by more than 0.2",
        "points, the largest fall in points, and the share of pixels that changed.",
    ]
    for name, result in results.items():
        lines += ["", f"**{name}**{_describe(result)}", ""]
        lines += ["| masks | images | before | after | worse | fall | changed |"]
        lines += ["| :-- | --: | --: | --: | --: | --: | --: |"]
        for masks, scores in result["scores"].items():
            before, after = (
                " / ".join(f"{100 * value:.1f}" for value in scores[key])
                for key in ("before", "after")
            )
            lines.append(
                f"| {masks} | {scores['number']} | {before} | {after} | "
                f"{100 * scores['share_worse']:.0f} % | {100 * scores['largest_loss']:.1f} | "
                f"{100 * scores['share_changed']:.2f} % |"
            )
    return "\n".join(lines) + "\n"


def _describe(result: dict[str, Any]) -> str:
    """What a row of scores was made with, in words."""
    words = []
    if "settings" in result:
        settings = result["settings"]
        words.append(
            "{steps} steps of {batch_size}, seed {seed}, conventions {conventions:g}".format(
                **settings
            )
        )
    if "config" in result:
        words.append("strength {strength}, radius {radius}".format(**result["config"]))
    if "calibration_error" in result:
        words.append(f"calibration error near edges {100 * result['calibration_error']:.1f} %")
    return f": {'; '.join(words)}" if words else ""


def score_runs(runs: list[Path], config: RefineConfig, data: Path, *, real: bool) -> None:
    """Score runs, and write all results."""
    results = read_results("masks")
    for run in runs:
        refine, about = open_way(run, config, data)
        scores = score(refine, data, real=real)
        name = run.name
        if about and config.strength != RefineConfig.strength:
            name += f", strength {config.strength:g}"
        if about and config.radius is not None:
            name += f", radius {config.radius}"
        results[name] = {
            **about,
            "scores": {name: value._asdict() for name, value in scores.items()},
            "machine": describe(torch.device("cpu")),
        }
        write_results("masks", results, table(results))


def make_errors(folder: Path, data: Path) -> None:
    """Train the networks whose masks are errors, and write these."""
    scenes, _ = find_scenes(data)
    for variant in VARIANTS:
        write_errors(scenes, folder, variant)


def main() -> None:
    """Make errors, train, score or bundle."""
    parser = argparse.ArgumentParser(description="Train and score mask refiners.")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("errors")
    making.add_argument("folder", type=Path)
    making.set_defaults(work=lambda a: make_errors(a.folder, a.data))
    training = commands.add_parser("train")
    training.add_argument("run", type=Path)
    training.add_argument("--errors", type=Path, help="a folder of `errors`")
    training.add_argument("--network", choices=NETWORKS, default="refiner")
    training.add_argument("--steps", type=int, default=2000)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--conventions", type=float, default=CONVENTIONS)
    training.add_argument("--batch-size", type=int, default=RunSettings.batch_size)
    training.set_defaults(
        work=lambda a: train(
            a.run,
            a.data,
            RunSettings(
                a.network,
                a.steps,
                a.seed,
                a.errors is not None,
                batch_size=a.batch_size,
                conventions=a.conventions,
            ),
            a.errors,
        )
    )
    scoring = commands.add_parser("score")
    ways = ", ".join((*FILTERS, BUNDLED))
    scoring.add_argument("runs", nargs="+", type=Path, help=f"or {ways}")
    scoring.add_argument("--strength", type=float, default=RefineConfig.strength)
    scoring.add_argument("--radius", type=int)
    scoring.add_argument("--held-out", action="store_true", help="leave other networks' masks out")
    scoring.set_defaults(
        work=lambda a: score_runs(
            a.runs,
            RefineConfig(strength=a.strength, radius=a.radius),
            a.data,
            real=not a.held_out,
        )
    )
    for part in (making, training, scoring):
        part.add_argument("--data", type=Path, required=True)
    bundling = commands.add_parser("bundle")
    bundling.add_argument("run", type=Path)
    bundling.set_defaults(work=lambda a: bundle(a.run))
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
