"""Refinement around any network: `probe` records maps, `plan` chooses, `taps` takes them out."""

from pna.model.cascade.model import Cascade, cascade, rebuild_cascade

__all__ = ["Cascade", "cascade", "rebuild_cascade"]
