"""Refinement around any network: `probe` sees its maps, `plan` chooses, `taps` takes them out."""

from pna.model.cascade.model import Cascade, cascade, rebuild_cascade

__all__ = ["Cascade", "cascade", "rebuild_cascade"]
