"""Images of label maps: numpy arrays in, Pillow images out.

| file | draws |
|---|---|
| `palette` | label maps as PNG files with a palette |
| `overlay` | a label map over its image; the legend |
| `strip` | the stages of a prediction side by side |
| `sheet` | many images with their labels |
| `change` | a mask before and after refinement, what changed, where it is probably wrong |
| `similarity` | the neighborhood of a pixel (the paper's Figure 1) |
| `layout`, `text` | panels, titles, letters |
"""

from pna.draw.change import change_figure, errors_figure, mask_figure
from pna.draw.overlay import legend, overlay
from pna.draw.palette import save_labels, write_image
from pna.draw.sheet import Entry, contact_sheet
from pna.draw.similarity import similarity_figure
from pna.draw.strip import strip

__all__ = [
    "Entry",
    "change_figure",
    "contact_sheet",
    "errors_figure",
    "legend",
    "mask_figure",
    "overlay",
    "save_labels",
    "similarity_figure",
    "strip",
    "write_image",
]
