"""Parts of a trained network knocked out (`benchmarks/knockout.py`)."""

import knockout
import pytest
import torch
from torch import nn

import pna
from pna.model.pna.config import PNAConfig
from pna.model.resize import resize


def make_head(**options):
    torch.manual_seed(0)
    head = pna.PNAHead([8, 16], 3, PNAConfig(widths=(32, 32), window=3, **options))
    for stage in head.stages:
        nn.init.normal_(stage.classifier.weight)
        nn.init.normal_(stage.carry.query_key.weight)
    return head.eval()


def run(head):
    torch.manual_seed(1)
    features = [torch.randn(1, 8, 12, 10), torch.randn(1, 16, 6, 5)]
    coarse = torch.randn(1, 3, 6, 5)
    with torch.no_grad():
        return features, coarse, head(features, coarse)


@pytest.mark.parametrize("name", knockout.PARTS)
def test_every_part_changes_all_stages(name):
    _, _, whole = run(make_head())
    head = make_head()
    assert knockout.knock_out(head, name)
    _, _, without = run(head)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(whole, without, strict=True))


def test_a_model_without_the_part():
    head = make_head(self_aggregation=False)
    assert not knockout.knock_out(head, "features past SAM")


def test_without_corrections_and_gathering_the_coarse_logits_come_out():
    head = make_head()
    assert knockout.knock_out(head, "no corrections, gathered logits alone")
    assert knockout.knock_out(head, "logits not gathered")
    features, coarse, stages = run(head)
    expected = coarse
    for feature, got in zip(reversed(features), stages, strict=True):
        expected = resize(expected, feature.shape[-2:])
        torch.testing.assert_close(got, expected)


def test_the_table_has_the_last_output_of_every_run():
    scores = {"miou": [1.0, 2.5], "boundary_miou": [0.5, 1.25]}
    page = knockout.table({"run-a": {"scores": {"whole": scores}}})
    assert page.splitlines()[-1] == "| run-a | whole | 2.50 | 1.25 |"
