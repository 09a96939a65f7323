"""Parts of a trained network put out of action, as `benchmarks/knockout.py` does it."""

import json

import knockout
import pytest
import torch
from torch import nn
from trained import RESULTS

import pna
from pna.model.resize import resize


def make_head(**options):
    torch.manual_seed(0)
    head = pna.PNAHead(
        [8, 16], 3, widths=(32, 32), window=3, upsample="bilinear", residual="aggregate", **options
    )
    for stage in head.stages:
        nn.init.normal_(stage.classifier.weight)
        nn.init.normal_(stage.carry.query_key.weight)
    return head.eval()


def see(head):
    torch.manual_seed(1)
    features = [torch.randn(1, 8, 12, 10), torch.randn(1, 16, 6, 5)]
    coarse = torch.randn(1, 3, 6, 5)
    with torch.no_grad():
        return features, coarse, head(features, coarse)


@pytest.mark.parametrize("name", knockout.PARTS)
def test_every_part_is_missed_in_all_stages(name):
    _, _, whole = see(make_head())
    head = make_head()
    assert knockout.put_out(head, name)
    _, _, without = see(head)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(whole, without, strict=True))


def test_a_model_without_the_part_is_told():
    head = make_head(self_aggregation=False)
    assert not knockout.put_out(head, "features past SAM")


def test_without_corrections_and_gathering_the_coarse_logits_come_out():
    head = make_head()
    assert knockout.put_out(head, "no corrections, gathered logits alone")
    assert knockout.put_out(head, "logits not gathered")
    features, coarse, stages = see(head)
    expected = coarse
    for feature, got in zip(reversed(features), stages, strict=True):
        expected = resize(expected, feature.shape[-2:])
        torch.testing.assert_close(got, expected)


def test_the_table_says_the_last_output_of_every_run():
    scores = {"miou": [1.0, 2.5], "boundary_miou": [0.5, 1.25]}
    page = knockout.table({"run-a": {"scores": {"whole": scores}}})
    assert page.splitlines()[-1] == "| run-a | whole | 2.50 | 1.25 |"


def test_the_kept_table_is_what_the_kept_scores_make():
    results = json.loads((RESULTS / "knockout.json").read_text(encoding="utf-8"))
    kept = (RESULTS / "knockout.md").read_text(encoding="utf-8")
    assert knockout.table(results) == kept
