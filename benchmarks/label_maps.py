"""Label maps of many classes, refined: mIoU and boundary IoU before and after.

    python benchmarks/label_maps.py voc2012 voc-lite --root PATH [--images 60]
    python benchmarks/label_maps.py damage damage-lite --root PATH

A network segments the validation images of a data set (of damage the test images). Its coarse
prediction P0 and its result are then refined by the bundled mask refiner, as labels at several
strengths and as probabilities, and by the dense CRF. Writes `results/label_maps.json` and
`label_maps.md`.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trained import read_results, write_results

import pna
from pna.data import create_dataset
from pna.inference.predictor import Prediction
from pna.lab.machine import describe, sentence
from pna.metrics import SegmentationScores

NAME = "label_maps"
STRENGTHS = (0.2, 0.5, 1.0)
Labels = NDArray[np.uint8]


def refined(prediction: Prediction, strength: float) -> Labels:
    """Refine labels."""
    return np.asarray(pna.refine(prediction.image, prediction.labels, strength=strength))


def refined_coarse(prediction: Prediction, strength: float) -> Labels:
    """Refine the labels of P0."""
    return np.asarray(pna.refine(prediction.image, prediction.stages[0], strength=strength))


def refined_soft(prediction: Prediction, strength: float) -> Labels:
    """Refine probabilities."""
    soft = pna.refine(prediction.image, np.asarray(prediction.scores), strength=strength)
    return np.asarray(np.asarray(soft).argmax(0), np.uint8)


def by_crf(prediction: Prediction) -> Labels:
    """Refine probabilities by the dense CRF."""
    soft = pna.dense_crf(prediction.image, np.asarray(prediction.scores))
    return np.asarray(soft.argmax(0), np.uint8)


WAYS: Mapping[str, Callable[[Prediction], Labels]] = {
    "P0": lambda prediction: prediction.stages[0],
    **{f"P0, strength {s:g}": partial(refined_coarse, strength=s) for s in STRENGTHS},
    "result": lambda prediction: prediction.labels,
    **{f"result, strength {s:g}": partial(refined, strength=s) for s in STRENGTHS},
    **{f"probabilities, strength {s:g}": partial(refined_soft, strength=s) for s in STRENGTHS},
    "probabilities, dense CRF": by_crf,
}


def score(name: str, model: str, root: Path, number: int) -> dict[str, Any]:
    """Score all ways on the first images of a validation split."""
    dataset = create_dataset(name, root, split="test" if name == "damage" else "val")
    dataset = dataset.subset(range(min(number, len(dataset))))
    classes = dataset.labels.num_classes
    scores = {way: SegmentationScores(classes, scored=dataset.labels.scored) for way in WAYS}
    changed = dict.fromkeys(WAYS, 0.0)
    predictor = pna.Predictor(model, device="cpu")
    for i in range(len(dataset)):
        image, truth = dataset.read_raw(i)
        prediction = predictor(image, stages=True, scores=True)
        for way, refine in WAYS.items():
            labels = refine(prediction)
            scores[way].update(torch.from_numpy(labels), truth)
            before = prediction.stages[0] if way.startswith("P0") else prediction.labels
            changed[way] += float((labels != before).mean()) / len(dataset)
        print(i + 1, dataset.pairs[i].name, flush=True)
    computed = {way: each.compute() for way, each in scores.items()}
    return {
        "model": model,
        "images": len(dataset),
        "scores": {
            way: {
                "miou": each.miou,
                "boundary_miou": each.boundary_miou,
                "mba": each.mba,
                "changed": changed[way],
            }
            for way, each in computed.items()
        },
        "machine": describe("cpu"),
    }


def table(results: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Label maps of many classes, refined",
        "",
        "Made by `python benchmarks/label_maps.py SET MODEL --root PATH`. In per cent; share of",
        "the pixels that changed.",
    ]
    for name, result in results.items():
        lines += ["", f"**{name}**, `{result['model']}`, {result['images']} images", ""]
        lines += ["| | mIoU | boundary IoU | mBA | changed |", "| :-- | --: | --: | --: | --: |"]
        for way, row in result["scores"].items():
            cells = (f"{100 * row[key]:.1f}" for key in ("miou", "boundary_miou", "mba"))
            lines.append(f"| {way} | {' | '.join(cells)} | {100 * row['changed']:.2f} % |")
        lines += ["", f"{sentence(result['machine'])}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Score label maps before and after refinement.")
    parser.add_argument("set", help="name of a data set")
    parser.add_argument("model", help="of `pna.Predictor`")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60)
    args = parser.parse_args()
    results = read_results(NAME)
    results[args.set] = score(args.set, args.model, args.root, args.images)
    write_results(NAME, results, table(results))


if __name__ == "__main__":
    main()
