"""Scoring a model on a dataset, stage by stage: `evaluate` runs, `Report` tells what came out."""

from pna.evaluate.report import Report
from pna.evaluate.run import evaluate

__all__ = ["Report", "evaluate"]
