"""Comparisons: models that are trained, scored and measured with the same settings.

`comparison` (settings and models) -> `runs` (one training each) -> `work` (train and score) ->
`scores` and `costs` -> `tables`, `charts`, `report`.
"""

from pna.lab.compare.comparison import (
    Comparison,
    bundled_comparisons,
    comparison_head,
    load_comparison,
)

__all__ = ["Comparison", "bundled_comparisons", "comparison_head", "load_comparison"]
