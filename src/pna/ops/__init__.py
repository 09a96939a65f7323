"""The operator: neighborhood attention with a bias table, several backends, one oracle."""

from pna.ops.dispatch import BACKENDS, Backend, neighborhood_attention, why_not

__all__ = ["BACKENDS", "Backend", "neighborhood_attention", "why_not"]
