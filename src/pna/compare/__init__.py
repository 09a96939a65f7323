"""Comparisons: many models trained, scored and measured under the same settings.

The figure of it: `comparison` (what is compared) -> `runs` (one training each) -> `work` (do them,
sharing them out by `locks`) -> `scores` (what they found), `costs` (what they take) -> `tables`,
`charts`, `report` (what people read).
"""

from pna.compare.comparison import Comparison
from pna.compare.files import bundled_comparisons, load_comparison

__all__ = ["Comparison", "bundled_comparisons", "load_comparison"]
