"""Draw the README's image: P0 beside P4 on one crop of a bundled photo.

python docs/crop.py writes docs/images/astronaut.jpg.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import pna
from pna.draw.overlay import overlay

FOLDER = Path(__file__).parent
PHOTO = FOLDER.parent / "src/pna/bundled/images/photos/astronaut.jpg"
BOX = (105, 0, 335, 230)  # left, top, right, bottom: hair and collar
ZOOM = 2


def main() -> None:
    """Segment the photo, and draw both stages on the crop."""
    predictor = pna.Predictor("voc-lite", device="cpu")
    stages = predictor(PHOTO, stages=True).stages
    size = (ZOOM * (BOX[2] - BOX[0]), ZOOM * (BOX[3] - BOX[1]))
    photo = np.asarray(Image.open(PHOTO).convert("RGB").crop(BOX).resize(size))
    sheet = Image.new("RGB", (2 * size[0] + 8, size[1]), "white")
    for column, name in enumerate(("P0", "P4")):
        labels = Image.fromarray(stages[int(name[1])].astype(np.uint8)).crop(BOX)
        labels = labels.resize(size, Image.Resampling.NEAREST)
        panel = overlay(photo, np.asarray(labels), predictor.model.labels)
        draw = ImageDraw.Draw(panel)
        draw.text((12, 6), name, "black", ImageFont.load_default(36))
        sheet.paste(panel, (column * (size[0] + 8), 0))
    sheet.save(FOLDER / "images" / "astronaut.jpg", quality=88)


if __name__ == "__main__":
    main()
