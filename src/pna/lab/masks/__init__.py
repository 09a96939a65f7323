"""Training and scoring of mask refiners, and the baselines.

`scenes` are images with accurate masks, `examples` parts of them; `network_errors` adds masks that
networks predicted. `training` draws batches and computes losses, `calibration` fits the
temperature, `scoring` compares masks before and after. Baselines: `decoder`, and `cascadepsp` with
`cascadepsp_steps` and `cascadepsp_loss`.

`coarsen` makes foreground probabilities from a mask, `coarsen_labels` a label map from a label map.
Their rules stand in `rules` and `label_rules`, the rule kept for scoring in `held_out`. Below them:
`segments` (pieces of a label map), `outlines` (trace, simplify, fill), `fields` (resizing, blur,
noise, distance) and `strength` (how strong a rule must be for a given error). All randomness comes
from the generator that is passed in.
"""
