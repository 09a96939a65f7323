"""Pictures of the documentation, drawn when it is built, by the bundled models.

The landing page has a wipe between P0 and the last stage; the gallery every bundled image, good and
bad, at full size.
"""

from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import pna
from pna.cli.demo import IMAGES, POINTS
from pna.data import create_dataset
from pna.data.images import read_image
from pna.draw import change_figure, overlay, similarity_figure, strip
from pna.lab.masks.coarsen_labels import coarsen_labels
from pna.labels import DAMAGE


class Picture(NamedTuple):
    """A picture of the gallery.

    Attributes:
        name: Its file.
        caption: What it shows.
    """

    name: str
    caption: str


def draw_pictures(folder: Path) -> list[Picture]:
    """Draw all pictures into a folder; returns those of the gallery."""
    folder.mkdir(parents=True, exist_ok=True)
    return [*_photos(folder), *_damage(folder), *_masks(folder)]


def _photos(folder: Path) -> list[Picture]:
    predictor, pictures = pna.Predictor("voc-lite", device="cpu"), []
    for path in sorted((IMAGES / "photos").iterdir()):
        stem, space = path.stem, predictor.model.labels
        prediction = predictor(path, stages=True, similar=POINTS[path.stem])
        for name, labels in (("first", prediction.stages[0]), ("last", prediction.labels)):
            drawn = overlay(prediction.image, labels, space)
            drawn.save(folder / f"{stem}_{name}.jpg", quality=88)
        panels = [(f"P{m}", labels) for m, labels in enumerate(prediction.stages)]
        strip(prediction.image, panels, space).save(folder / f"{stem}_stages.png")
        figure = similarity_figure(prediction.image, POINTS[stem], prediction.similarity)
        figure.save(folder / f"{stem}_similar.png")
        pictures += [
            Picture(f"{stem}_stages.png", f"{stem}, voc-lite: P0 at stride 32 to P4 at stride 4"),
            Picture(f"{stem}_similar.png", f"{stem}: what one pixel gathers from at each stage"),
        ]
    return pictures


def _damage(folder: Path) -> list[Picture]:
    predictor = pna.Predictor("damage-lite", device="cpu")
    found: list[tuple[float, Picture]] = []
    dataset = create_dataset("folder", IMAGES / "damage", labels=DAMAGE, masks="color")
    for index, pair in enumerate(dataset.pairs):
        truth = np.asarray(dataset.read_raw(index)[1])
        prediction = predictor(pair.image, stages=True)
        valid = truth != 255
        right = 100 * float((prediction.labels == truth)[valid].mean())
        panels = [(f"P{m}", labels) for m, labels in enumerate(prediction.stages)]
        name = f"damage_{pair.name}.png"
        strip(prediction.image, panels, DAMAGE, truth=truth).save(folder / name)
        caption = f"concrete {pair.name}, damage-lite: {right:.0f} % of the pixels right"
        found.append((right, Picture(name, caption)))
    # The worst one first: failures are part of the answer.
    return [picture for _, picture in sorted(found)]


def _masks(folder: Path) -> list[Picture]:
    """Refine coarse masks: of the first stage of voc-lite, and true ones made coarse by a rule."""
    predictor, pictures = pna.Predictor("voc-lite", device="cpu"), []
    for path in sorted((IMAGES / "photos").iterdir()):
        found = predictor(path, stages=True)
        before, classes = found.stages[0], dict(enumerate(found.label_space.classes))
        after = pna.refine(found.image, before, strength=1, device="cpu")
        name = f"{path.stem}_refined.png"
        change_figure(found.image, before, after, names=classes).save(folder / name)
        pictures.append(
            Picture(name, f"{path.stem}: P0 of voc-lite as a mask, refined at strength 1")
        )
    return [*pictures, *_coarse_damage(folder)]


def _coarse_damage(folder: Path) -> list[Picture]:
    dataset = create_dataset("folder", IMAGES / "damage", labels=DAMAGE, masks="color")
    found: list[tuple[float, Picture]] = []
    for index, pair in enumerate(dataset.pairs):
        truth = dataset.read_raw(index)[1].numpy()
        before = coarsen_labels(truth, np.random.default_rng(index), amount=0.4)
        image = read_image(pair.image)
        after = pna.refine(image, before, strength=1, device="cpu")
        wrong = [100 * float((labels != truth).mean()) for labels in (before, after)]
        name = f"damage_{pair.name}_refined.png"
        classes = dict(enumerate(DAMAGE.classes))
        change_figure(image, before, after, names=classes).save(folder / name)
        caption = (
            f"concrete {pair.name}: the true mask made coarse, refined at strength 1; wrong pixels "
            f"{wrong[0]:.1f} % before, {wrong[1]:.1f} % after"
        )
        found.append((wrong[0] - wrong[1], Picture(name, caption)))
    # The one that gained least first.
    return [picture for _, picture in sorted(found)]


def wipe(stem: str, root: str) -> str:
    """Return the HTML of the wipe between the first and the last stage of a photo."""
    with Image.open(IMAGES / "photos" / f"{stem}.jpg") as image:
        width, height = image.size
    first, last = (
        f'<img src="{root}{stem}_{name}.jpg" width="{width}" height="{height}" alt="{alt}">'
        for name, alt in (("first", "coarse prediction, P0"), ("last", "last stage, P4"))
    )
    label = "Share of the coarse prediction that is shown"
    return (
        f'<div class="wipe">{first}{last}'
        f'<input type="range" min="0" max="100" value="50" aria-label="{label}"></div>'
    )


def gallery(pictures: list[Picture], root: str) -> str:
    """Return the HTML of all pictures with their captions."""
    figures = (
        f'<figure><a href="{root}{one.name}"><img src="{root}{one.name}" loading="lazy" '
        f'alt="{escape(one.caption)}"></a><figcaption>{escape(one.caption)}</figcaption></figure>'
        for one in pictures
    )
    return f'<div class="gallery">{"".join(figures)}</div>'
