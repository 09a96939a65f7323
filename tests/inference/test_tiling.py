"""The settings of sliding window and test-time augmentation, and the geometry of tiles."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pna.errors import PnaError
from pna.inference.tiling import TilingConfig, tile_starts, tile_weights


class TestTileStarts:
    @settings(deadline=None)
    @given(
        length=st.integers(1, 300),
        tile=st.integers(1, 300),
        percent=st.integers(0, 99),
    )
    def test_tiles_cover_the_axis_and_share_enough(self, length, tile, percent):
        tile, overlap = min(tile, length), percent / 100
        starts = tile_starts(length, tile, overlap)
        assert starts[0] == 0
        assert starts[-1] + tile == length
        for first, second in pairwise(starts):
            assert first < second
            shared = first + tile - second
            assert shared >= min(tile - 1, tile * overlap - 1e-6)

    def test_by_hand(self):
        assert tile_starts(10, 4, 0.5) == [0, 2, 4, 6]
        assert tile_starts(10, 4, 0.0) == [0, 4, 6]
        assert tile_starts(4, 4, 0.5) == [0]


def test_weights_fall_off_to_the_edges_and_are_positive():
    weights = tile_weights(6, 9, torch.device("cpu"))
    assert weights.shape == (6, 9)
    assert weights.min() > 0
    assert torch.allclose(weights, weights.flip(0, 1))
    assert (weights[:3, 4].diff() > 0).all()
    assert (weights[3:, 4].diff() < 0).all()


class TestTilingConfig:
    def test_in_words(self):
        assert str(TilingConfig()) == "whole images"
        assert str(TilingConfig((8, 12), 0.5, (0.5, 1.0, 1.5), True)) == (
            "tiles of 8x12 with 50 % overlap, at scales 0.5, 1, 1.5, with flip"
        )
        assert str(TilingConfig(scales=(2.0,))) == "whole images, at scale 2"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"tile": (0, 5)},
                r"expected a tile's height and width, each at least 1, got \(0, 5\)",
            ),
            ({"tile": 512}, "expected a tile's height and width, each at least 1, got 512"),
            ({"tile": (8.5, 8)}, r"expected a tile's height and width, .* got \(8.5, 8\)"),
            ({"scales": 1.5}, r"expected scales in \(0, 8\], at least one, got 1.5"),
            ({"overlap": 1.0}, r"expected an overlap in \[0, 1\), a share of the tile, got 1.0"),
            ({"overlap": -0.1}, "expected an overlap in"),
            ({"scales": ()}, r"expected scales in \(0, 8\], at least one, got \(\)"),
            ({"scales": (1.0, 0.0)}, r"expected scales in \(0, 8\]"),
        ],
    )
    def test_errors(self, settings, message):
        with pytest.raises(PnaError, match=rf"^{message}"):
            TilingConfig(**settings)

    def test_lists_are_taken_for_tuples(self):
        """As JSON and YAML have them; equal settings are equal."""
        assert TilingConfig([8, 12], scales=[0.5]) == TilingConfig((8, 12), scales=(0.5,))
        assert hash(TilingConfig([8, 12])) == hash(TilingConfig((8, 12)))
