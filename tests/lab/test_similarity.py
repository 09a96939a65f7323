"""Where attention weights lie (`benchmarks/similarity.py`)."""

import pytest
import similarity
import torch

from pna.labels import IGNORE_INDEX
from pna.model.segmenter import StageSimilarity


def test_pixels_near_another_class():
    labels = torch.zeros(1, 40, dtype=torch.int64)
    labels[:, 20:] = 1
    labels[:, 30:] = IGNORE_INDEX
    assert similarity.near_edges(labels)[:, 1].tolist() == list(range(12, 28))
    assert not len(similarity.near_edges(torch.zeros(9, 9, dtype=torch.int64)))


def test_shares_of_a_window_that_reaches_into_the_padding():
    labels = torch.zeros(7, 8, dtype=torch.int64)
    labels[:, 4:] = 1
    labels[:, 6:] = 2
    weights = torch.tensor([[[0.5, 0.3], [0.2, 0.0]]])
    near = StageSimilarity(1, 4.0, 1, 1, (0, 2), (0, 2), weights)
    # The left cells are all of class 0, the right ones half of class 1.
    assert similarity.shares(near, labels, (6, 0)) == pytest.approx((0.7, 0.5))
    assert similarity.shares(near, labels, (6, 4)) == pytest.approx((0.15, 0.25))


def test_the_table_has_every_stage():
    stages = {"1": {"weights": 0.5, "equal": 0.25}, "2": {"weights": 1.0, "equal": 0.5}}
    page = similarity.table({"run-a": {"pixels": 7, "stages": stages}})
    assert page.splitlines()[-1] == "| run-a | 7 | 50.0 (25.0) | 100.0 (50.0) |"
