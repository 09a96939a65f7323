"""Mask files of any kind as arrays, and arrays back into the same kind of file."""
