"""Refinement of predictions that need no training: arrays in, arrays out."""
