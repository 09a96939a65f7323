"""`pna demo`: the bundled models on the bundled images; needs no network."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.options import add_device_argument

if TYPE_CHECKING:
    from pna.evaluate import Report
    from pna.inference.predictor import Prediction

EPILOG = """\
example:
  pna demo -o out/demo
"""

IMAGES = Path(__file__).parent.parent / "bundled" / "images"
# Pixels near an edge of the subject: in the hair, and on the cheek.
POINTS = {"astronaut": (275, 70), "cat": (345, 185)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder for the results, made if missing (default: %(default)s)",
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the photos stage by stage, refine a mask, then score and draw the concrete."""
    from pna.cli.segment import describe, write_results
    from pna.inference.predictor import Predictor

    photos, masks, damage = (args.out / name for name in ("photos", "masks", "damage"))
    photos.mkdir(parents=True, exist_ok=True)
    print("voc-lite segments two photos:")
    predictor = Predictor("voc-lite", device=args.device)
    predictions: dict[str, Prediction] = {}
    for path in sorted((IMAGES / "photos").iterdir()):
        point = POINTS[path.stem]
        prediction = predictor(path, stages=True, similar=point)
        write_results(prediction, photos, path.stem, point=point)
        print(f"{path.name}: {describe(prediction)}")
        predictions[path.stem] = prediction
    print("\nThe mask refiner sharpens P0, the coarse masks of the photos, at strength 1:")
    for stem, prediction in predictions.items():
        share = refine_coarse(prediction, stem, masks, args.device)
        print(f"{stem}.jpg: {100 * share:.1f} % of the pixels changed")
    print("\ndamage-lite on 8 images of damaged concrete that it was not trained on:\n")
    report = evaluate_damage(damage, args.device)
    print(report.table())
    first, last = report.stages["P0"], report.final
    print(
        f"From P0 to {list(report.stages)[-1]}: mIoU {100 * first.miou:.1f} -> "
        f"{100 * last.miou:.1f} %, boundary IoU {100 * first.boundary_miou:.1f} -> "
        f"{100 * last.boundary_miou:.1f} %."
    )
    print(f"Images: {photos}, {masks} and {damage}")
    return 0


def refine_coarse(prediction: "Prediction", stem: str, out: Path, device: str | None) -> float:
    """Refine P0 as a mask; draw before, after and difference, and return the share changed."""
    from pna.draw import change_figure, save_labels, write_image
    from pna.inference.refine import refine

    image, mask, space = prediction.image, prediction.stages[0], prediction.label_space
    refined = refine(image, mask, strength=1, device=device)  # P0 is rough for certain
    out.mkdir(parents=True, exist_ok=True)
    for when, labels in (("before", mask), ("after", refined)):
        save_labels(labels, space, out / f"{stem}_{when}.png")
    figure = change_figure(image, mask, refined, names=dict(enumerate(space.classes)))
    write_image(figure, out / f"{stem}_compare.png")
    return float((refined != mask).mean())


def evaluate_damage(out: Path, device: str | None) -> "Report":
    """Score `damage-lite` on the bundled images; write scores and one strip per image."""
    import numpy as np

    from pna.data import create_dataset
    from pna.draw import strip, write_image
    from pna.evaluate import evaluate
    from pna.inference.predictor import Predictor
    from pna.labels import DAMAGE

    # One model for scores and images, so that the strips show the labels that were scored.
    predictor = Predictor("damage-lite", device=device)
    dataset = create_dataset("folder", IMAGES / "damage", labels=DAMAGE, masks="color")
    report = evaluate(predictor.model, dataset, model_name="damage-lite")
    report.save(out)
    for index, pair in enumerate(dataset.pairs):
        _, truth = dataset.read_raw(index)
        prediction = predictor(pair.image, stages=True)
        panels = [(f"P{stage}", labels) for stage, labels in enumerate(prediction.stages)]
        drawn = strip(prediction.image, panels, DAMAGE, truth=np.asarray(truth))
        write_image(drawn, out / f"{pair.name}_stages.png")
    return report
