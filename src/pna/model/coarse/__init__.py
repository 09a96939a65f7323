"""Coarse heads: encoder features in, the logits P0 that PNA refines out. One file each.

Every head is made as `Head(in_channels, num_classes, ...)` from the channels of all encoder levels,
fine to coarse, and maps the list of features to (B, K, h, w) logits at its own stride.

A *neck* computes features that the coarse head and a baseline share: a feature pyramid, or the
output of ASPP.
"""
