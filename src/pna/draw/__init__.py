"""Pictures of label maps: numpy arrays in, Pillow images out.

`palette` writes label maps, `overlay` lays one over its picture, `strip` sets the stages of a
prediction side by side, `sheet` many pictures with their labels, `similarity` draws what a pixel
looks at (the paper's Figure 1).
"""

from pna.draw.overlay import legend, overlay
from pna.draw.palette import save_labels
from pna.draw.sheet import Entry, contact_sheet
from pna.draw.similarity import similarity_figure
from pna.draw.strip import strip

__all__ = [
    "Entry",
    "contact_sheet",
    "legend",
    "overlay",
    "save_labels",
    "similarity_figure",
    "strip",
]
