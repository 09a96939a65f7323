"""Draw the image of the page on rasters: a place where tiles meet, without and with overlap.

python docs/seams.py writes docs/images/seams.jpg.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import pna
from pna.draw.overlay import overlay

FOLDER = Path(__file__).parent
PHOTOS = FOLDER.parent / "src/pna/bundled/images/damage/images"
TILE, SIDE, ZOOM = 512, 240, 2


def main() -> None:
    """Segment all photos whole and in tiles, and draw the place where tiles differ most."""
    whole, cut, blended = (
        pna.Predictor("damage-lite", device="cpu", tiling=tiling)
        for tiling in (
            pna.TilingConfig(),
            pna.TilingConfig(tile=(TILE, TILE), overlap=0),
            pna.TilingConfig(tile=(TILE, TILE)),
        )
    )
    most = -1
    for path in sorted(PHOTOS.iterdir()):
        results = [predictor(path).labels for predictor in (whole, cut, blended)]
        shares = [100 * float((labels != results[0]).mean()) for labels in results[1:]]
        print(f"{path.name}: {shares[0]:.3f} % differ without overlap, {shares[1]:.3f} % with")
        differs = (results[1] != results[0]).astype(np.int64)
        sums = np.pad(differs.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        inside = (
            sums[SIDE:, SIDE:] - sums[:-SIDE, SIDE:] - sums[SIDE:, :-SIDE] + sums[:-SIDE, :-SIDE]
        )
        if inside.max() > most:
            most = inside.max()
            top, left = np.unravel_index(inside.argmax(), inside.shape)
            box = (int(left), int(top), int(left) + SIDE, int(top) + SIDE)
            found = path, box, results
    path, box, results = found
    size = (ZOOM * SIDE, ZOOM * SIDE)
    photo = np.asarray(Image.open(path).convert("RGB").crop(box).resize(size))
    titles = ("whole", "tiles, no overlap", "tiles, 25 % overlap")
    sheet = Image.new("RGB", (3 * size[0] + 16, size[1]), "white")
    for column, (labels, title) in enumerate(zip(results, titles, strict=True)):
        crop = Image.fromarray(labels).crop(box).resize(size, Image.Resampling.NEAREST)
        panel = overlay(photo, np.asarray(crop), whole.model.labels)
        draw = ImageDraw.Draw(panel)
        draw.text(
            (12, 6), title, "white", ImageFont.load_default(28), stroke_width=3, stroke_fill="black"
        )
        sheet.paste(panel, (column * (size[0] + 8), 0))
    sheet.save(FOLDER / "images" / "seams.jpg", quality=88)


if __name__ == "__main__":
    main()
