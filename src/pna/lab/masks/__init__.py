"""Mask refiners of other papers, one file each: an image and a coarse mask give a sharp mask."""
