"""Parts of a trained network knocked out (`benchmarks/knockout.py`)."""

import knockout
import pytest
import torch
from torch import nn

import pna
from pna.model.pna.config import PNAConfig
from pna.model.resize import resize

RELEASED = {"variant": "released", "residual": "add", "pass_features": False}
MIXER = {"variant": "mixer", "residual": "gather", "pass_features": True, "depth": 2}
ABSENT = {
    "released": {
        "features not handed on",
        "cells not mixed",
        "logits not gathered",
        "learned similarity not used",
        "colors not used",
    },
    "mixer": {"NAM adds nothing"},
}


def make_head(**options):
    torch.manual_seed(0)
    head = pna.PNAHead(
        [8, 16],
        3,
        PNAConfig(**{"widths": (32, 32), "window": 3, "self_aggregation": True, **options}),
    )
    for stage in head.stages:
        nn.init.normal_(stage.classifier.weight)
        if stage.carry is not None:
            nn.init.normal_(stage.carry.query.weight)
            nn.init.normal_(stage.carry.key.weight)
    return head.eval()


def run(head, coarse_size=(3, 2)):
    torch.manual_seed(1)
    features = [torch.randn(1, 8, 12, 10), torch.randn(1, 16, 6, 5)]
    coarse = torch.randn(1, 3, *coarse_size)
    with torch.no_grad():
        return features, coarse, head(features, coarse, images=torch.rand(1, 3, 24, 20))


@pytest.mark.parametrize("options", [RELEASED, MIXER], ids=["released", "mixer"])
@pytest.mark.parametrize("name", knockout.PARTS)
def test_every_part_changes_all_stages(name, options):
    _, _, whole = run(make_head(**options))
    head = make_head(**options)
    is_present = name not in ABSENT[options["variant"]]
    assert knockout.knock_out(head, name) == is_present
    _, _, without = run(head)
    for number, (a, b) in enumerate(zip(whole, without, strict=True)):
        # Nothing is handed on to the first stage.
        is_changed = is_present and (number > 0 or name != "features not handed on")
        assert ((a - b).abs().max() > 1e-3) == is_changed


def test_a_model_without_the_part():
    head = make_head(self_aggregation=False)
    assert not knockout.knock_out(head, "features past SAM")


@pytest.mark.parametrize("options", [RELEASED, MIXER], ids=["released", "mixer"])
def test_without_corrections_and_gathering_the_coarse_logits_come_out(options):
    head = make_head(**options)
    assert knockout.knock_out(head, "no corrections, gathered logits alone")
    assert knockout.knock_out(head, "logits not gathered") == (options is MIXER)
    features, coarse, stages = run(head)
    expected = coarse
    for feature, got in zip(reversed(features), stages, strict=True):
        expected = resize(expected, feature.shape[-2:])
        torch.testing.assert_close(got, expected)


def test_without_colors_and_similarity_the_place_alone_counts():
    """Other features and another image gather the same logits then."""
    found = []
    for seed in (0, 1):
        head = make_head(**MIXER)
        for name in ("no corrections, gathered logits alone", "colors not used"):
            assert knockout.knock_out(head, name)
        assert knockout.knock_out(head, "learned similarity not used")
        torch.manual_seed(seed)
        features = [torch.randn(1, 8, 12, 10), torch.randn(1, 16, 6, 5)]
        images = torch.rand(1, 3, 24, 20)
        with torch.no_grad():
            found.append(head(features, torch.arange(18.0).view(1, 3, 3, 2), images=images)[-1])
    torch.testing.assert_close(*found)


def test_cells_not_mixed_keep_what_is_equal_everywhere():
    head = make_head(**MIXER)
    mix = head.stages[0].fusion.blocks[0].mix
    even = torch.randn(1, 32, 1, 1).expand(-1, -1, 5, 5)
    uneven = torch.randn(1, 32, 5, 5)
    inner = mix(even)[..., 1:-1, 1:-1]
    assert knockout.knock_out(head, "cells not mixed")
    torch.testing.assert_close(mix(even)[..., 1:-1, 1:-1], inner)
    changed = uneven.clone()
    changed[..., 2, 2] += 1
    moved = (mix(changed) - mix(uneven)).abs().amax((0, 1)) > 0
    assert moved.nonzero().tolist() == [[2, 2]]


def test_the_table_has_the_last_output_of_every_run():
    scores = {"miou": [1.0, 2.5], "boundary_miou": [0.5, 1.25]}
    page = knockout.table({"run-a": {"scores": {"whole": scores}}})
    assert page.splitlines()[-1] == "| run-a | whole | 2.50 | 1.25 |"
