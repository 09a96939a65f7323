"""Evaluation of a model, or of a folder of predictions, on a data set; it returns a `Report`."""

from pna.evaluate.report import Report
from pna.evaluate.run import evaluate, evaluate_predictions

__all__ = ["Report", "evaluate", "evaluate_predictions"]
