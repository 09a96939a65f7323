"""Rasters of any size: segmented block by block in bounded memory, written with their place."""
