"""Coarse masks made from accurate ones, to train and to score a refiner of masks.

`coarsen` makes foreground probabilities from a mask, `coarsen_labels` a label map from a label map.
Their rules stand in `rules` and `label_rules`, the rule kept for scoring in `held_out`. Below them:
`outlines` (trace, simplify, fill), `fields` (resizing, blur, noise, distance) and `strength` (how
strong a rule must be for a given error). All randomness comes from the generator that is passed in.
"""
