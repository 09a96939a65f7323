"""Multiply-accumulates of the operator; the paper's table 1 is checked with the presets."""

import pytest

from pna.model.counts import count
from pna.model.refiner import Refiner
from pna.ops import neighborhood_attention
from tiny_segmenter import TinySegmenter


class Gathering(Refiner):
    """Queries at stride 1, keys at stride 2; both have the 3 channels of the image."""

    num_stages = 1

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, features, coarse, *, images=None):
        query, key = (x[:, None].movedim(2, -1) for x in features)
        gathered = neighborhood_attention(query, key, key, **self.options)
        return [gathered[:, 0].movedim(-1, 1)]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"window": 5}, 5 * 5),
        ({"window": 9}, 8 * 9),
        ({"window": None}, 8 * 12),
        ({"window": 5, "dilation": 2}, 4 * 5),
    ],
)
def test_attention_across_grids_counts_queries_times_keys(options, keys):
    model = TinySegmenter(num_stages=1)
    model.refiner, model.mean = Gathering(**options), model.mean.float()
    parts = {part.part: part for part in count(model, (16, 24))}
    assert parts["refinement"].attention_macs == 16 * 24 * keys * (3 + 3)
