"""Tiny data sets drawn by code, in the layout of each real one.

For tests and for trying things out: colored shapes with crisp edges on a textured ground, the same
files for the same seed. A class has its color in the image too, so a network can learn them.
"""

from pna.data.synthetic.camvid import write_camvid
from pna.data.synthetic.cityscapes import write_cityscapes
from pna.data.synthetic.cocostuff import write_cocostuff10k
from pna.data.synthetic.deepglobe import write_deepglobe
from pna.data.synthetic.folder import write_damage, write_folder
from pna.data.synthetic.scene import Scene, draw_scene
from pna.data.synthetic.trans10k import write_trans10k
from pna.data.synthetic.voc2012 import write_voc

__all__ = [
    "Scene",
    "draw_scene",
    "write_camvid",
    "write_cityscapes",
    "write_cocostuff10k",
    "write_damage",
    "write_deepglobe",
    "write_folder",
    "write_trans10k",
    "write_voc",
]
