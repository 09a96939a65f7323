"""`pna demo`: the bundled models on the bundled pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.evaluate import Report

HELP = "segment bundled photos and score a bundled model on bundled labelled pictures"

PICTURES = Path(__file__).parent.parent / "bundled" / "pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("out/demo"), help="folder to write to (%(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is one)")


def run(args: argparse.Namespace) -> int:
    """Draw the photos stage by stage, then score and draw the concrete."""
    from pna.cli import main

    photos = args.out / "photos"
    device = ["--device", args.device] if args.device else []
    print("voc-lite segments two photos:")
    options = ["--model", "voc-lite", "--stages", "--similar", "318,170", *device]
    status = main(["segment", str(PICTURES / "photos"), "-o", str(photos), *options])
    print("\ndamage-lite on 8 pictures of damaged concrete that it has not seen:\n")
    report = evaluate_damage(args.out / "damage", args.device)
    print(report.table())
    first, last = report.stages["P0"], report.final
    print(
        f"From P0 to {list(report.stages)[-1]}: mIoU {100 * first.miou:.1f} -> "
        f"{100 * last.miou:.1f} %, boundary IoU {100 * first.boundary_miou:.1f} -> "
        f"{100 * last.boundary_miou:.1f} %."
    )
    print(f"Pictures: {photos} and {args.out / 'damage'}")
    return status


def evaluate_damage(out: Path, device: str | None) -> "Report":
    """Score `damage-lite` on the bundled pictures; write scores and one strip per picture."""
    import numpy as np

    from pna.data import create_dataset
    from pna.draw import strip
    from pna.evaluate import evaluate
    from pna.labels import DAMAGE
    from pna.predict import Predictor

    predictor = Predictor("damage-lite", device=device)
    dataset = create_dataset("folder", PICTURES / "damage", labels=DAMAGE, masks="color")
    report = evaluate(predictor.model, dataset, model_name="damage-lite")
    report.save(out)
    for index, pair in enumerate(dataset.pairs):
        _, truth = dataset.read(index)
        found = predictor(pair.picture, stages=True)
        panels = [(f"P{stage}", stage_labels) for stage, stage_labels in enumerate(found.stages)]
        image = strip(found.picture, panels, DAMAGE, truth=np.asarray(truth))
        image.save(out / f"{pair.name}_stages.png")
    return report
