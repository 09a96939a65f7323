"""A result as pictures, as a legend, and as files to download."""

import html
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from pna.app.desk import Refined, Result
from pna.data.images import UInt8Array
from pna.data.masks.arrays import changed_pixels
from pna.data.masks.files import write_mask
from pna.draw import overlay, save_labels, write_image
from pna.draw.palette import count_labels
from pna.errors import PnaError
from pna.labels import IGNORE_COLOR, IGNORE_INDEX

View = Literal["overlay", "edges", "confidence"]
VIEWS: tuple[View, ...] = get_args(View)
_LONGEST = 1600
"""Longer side of a picture on the page, in pixels: a larger one takes seconds to send."""


def draw(result: Result, stage: int, view: View) -> Image.Image:
    """Draw a stage of a result.

    Args:
        result: The result.
        stage: From 0; beyond the last the last.
        view: "overlay", class colors over the image; "edges", white lines where classes meet;
            "confidence", how sure the last stage is: black is 0, white 1.

    Returns:
        RGB, at the image's size.
    """
    if view not in VIEWS:
        raise PnaError(f"expected a view of {', '.join(VIEWS)}, got {view!r}")
    if view == "confidence":
        return Image.fromarray(result.confidence).convert("RGB")
    labels = labels_of(result, stage)
    if view == "edges":
        return overlay(result.image // 2, labels, result.label_space, alpha=0.0)
    return overlay(result.image, labels, result.label_space)


def labels_of(result: Result, stage: int) -> UInt8Array:
    """Return the label map (H, W) of a stage, or of the last one."""
    return result.stages[min(max(stage, 0), len(result.stages) - 1)]


def shown(picture: Image.Image) -> Image.Image:
    """Reduce a picture to what a page shows."""
    if max(picture.size) <= _LONGEST:
        return picture
    small = picture.copy()
    small.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return small


def legend(result: Result, stage: int) -> str:
    """Return the classes of a stage with their shares, most first, as HTML."""
    labels, space = labels_of(result, stage), result.label_space
    counts = count_labels(labels)
    names = dict(enumerate(space.classes)) | {IGNORE_INDEX: "ignored"}
    colors = dict(enumerate(space.colors)) | {IGNORE_INDEX: IGNORE_COLOR}
    rows = []
    for index in np.argsort(-counts, kind="stable"):
        if not counts[index]:
            break
        red, green, blue = colors[int(index)]
        swatch = (
            f'<span aria-hidden="true" style="display:inline-block;width:1em;height:1em;'
            f'border:1px solid #888;background:rgb({red},{green},{blue})"></span>'
        )
        share = 100 * counts[index] / labels.size
        rows.append(
            f"<tr><td>{swatch}</td><td>{html.escape(names[int(index)])}</td>"
            f'<td style="text-align:right">{share:.1f} %</td></tr>'
        )
    head = '<tr><th scope="col">color</th><th scope="col">class</th><th scope="col">share</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def times(result: Result) -> str:
    """Return size, tiling and the time of each part, in Markdown."""
    H, W = result.image.shape[:2]
    parts = [f"{name} {1000 * s:.0f} ms" for name, s in result.seconds.items() if name != "all"]
    total = result.seconds["all"]
    return (
        f"{W} x {H} pixels, {result.tiling}, **{total:.2f} s**"
        f"{': ' if parts else ''}{', '.join(parts)}"
    )


def compare(one: Result, other: Result) -> str:
    """Return how far two results of one image agree, in Markdown."""
    seconds = f"{one.model} {one.seconds['all']:.2f} s, {other.model} {other.seconds['all']:.2f} s"
    if one.label_space != other.label_space:
        return f"The models have different classes. {seconds}."
    share = 100 * float((one.stages[-1] != other.stages[-1]).mean())
    return f"{share:.1f} % of the pixels have another class. {seconds}."


def save(result: Result, stage: int, folder: Path) -> dict[str, Path]:
    """Write the files to download.

    Args:
        result: The result.
        stage: Which of its stages.
        folder: Where to write.

    Returns:
        "labels" and "overlay", PNG files, and "polygons", a GeoPackage in pixels, where rasterio
        and fiona are installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels = labels_of(result, stage)
    files = {"labels": folder / "labels.png", "overlay": folder / "overlay.png"}
    save_labels(labels, result.label_space, files["labels"])
    write_image(overlay(result.image, labels, result.label_space), files["overlay"])
    if find_spec("rasterio") and find_spec("fiona"):
        from pna.inference.raster.write import write_polygons

        files["polygons"] = folder / "polygons.gpkg"
        write_polygons(files["polygons"], files["labels"], result.label_space)
    return files


def report(result: Refined) -> str:
    """Return size, kind, changed pixels and time, and what was guessed, in Markdown."""
    H, W = result.image.shape[:2]
    share = 100 * float(changed_pixels(result.given.array, result.mask).mean())
    text = f"{W} x {H} pixels, {result.given.kind}, {share:.2g} % changed, "
    text += f"**{result.seconds:.2f} s**"
    if result.given.guess is not None:
        text += f"  \n{result.given.guess}"
    return text if result.given.has_edges else f"{text}  \nThe mask has no edge to refine."


def save_mask(result: Refined, folder: Path) -> Path:
    """Write the refined mask as the kind of file that was given, and return the file."""
    file = folder / f"{result.given.path.stem}{result.given.form.suffix}"
    write_mask(result.given, result.mask, file, image=result.image)
    return file
