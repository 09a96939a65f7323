from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pna.model.presets import create_model
from pna.predict import Predictor, stage_labels
from pna.views import Views, bands, blend, tile_starts
from tiny_segmenter import by_brightness

TILES = Views(tile=(8, 12))
ALL = Views(tile=(8, 12), overlap=0.5, scales=(0.5, 1.0, 1.5), flip=True)


def noise(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def whole(model, pictures):
    """Softmax of every stage at the pictures' size, straight from the model."""
    output = model(pictures, stages=True)
    small = [output.coarse, *output.stages]
    return [model.upsample(logits, pictures.shape[-2:]).softmax(1) for logits in small]


@pytest.fixture
def tiny():
    with torch.inference_mode():
        yield by_brightness().eval()


@pytest.fixture(scope="module")
def real():
    torch.manual_seed(0)
    return create_model("lite", num_classes=4, pretrained=False).eval()


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


class TestBlend:
    @pytest.mark.parametrize(
        "views", [Views(), Views(tile=(40, 40)), Views(tile=(20, 26)), Views(tile=(99, 26))]
    )
    def test_one_tile_is_the_whole_picture(self, tiny, views):
        picture = noise(20, 26)
        for ours, direct in zip(
            blend(tiny, picture, views, stages=True), whole(tiny, picture), strict=True
        ):
            assert torch.allclose(ours, direct, atol=1e-6)

    def test_tiles_by_hand(self, tiny):
        """Pixel by pixel from the definition: two tiles of 8 that share 4, weights sin^2."""
        picture = noise(4, 12)
        left, right = (whole(tiny, picture[..., s : s + 8])[0] for s in (0, 4))
        (ours, *_) = blend(tiny, picture, Views(tile=(4, 8), overlap=0.5), stages=True)
        assert torch.allclose(ours[..., :4], left[..., :4], atol=1e-6)
        assert torch.allclose(ours[..., 8:], right[..., 4:], atol=1e-6)
        for x in range(4, 8):
            a, b = (np.sin(np.pi * (u + 0.5) / 8) ** 2 for u in (x, x - 4))
            mean = (a * left[..., x] + b * right[..., x - 4]) / (a + b)
            assert torch.allclose(ours[..., x], mean, atol=1e-6)

    def test_flip_is_the_mean_of_both(self, tiny):
        picture = noise(13, 10)
        other = [share.flip(-1) for share in whole(tiny, picture.flip(-1))]
        for ours, a, b in zip(
            blend(tiny, picture, Views(flip=True), stages=True),
            whole(tiny, picture),
            other,
            strict=True,
        ):
            assert torch.allclose(ours, (a + b) / 2, atol=1e-6)

    def test_flipped_views_of_a_mirrored_picture_are_mirrored(self, tiny):
        picture = noise(16, 30)
        views = Views(tile=(8, 14), overlap=0.5, flip=True)
        ours = blend(tiny, picture, views, stages=False)[0]
        mirrored = blend(tiny, picture.flip(-1), views, stages=False)[0]
        assert torch.allclose(ours, mirrored.flip(-1), atol=1e-6)

    def test_scales_are_averaged(self, tiny):
        picture = noise(8, 12)
        half = torch.nn.functional.interpolate(
            picture, (4, 6), mode="bilinear", align_corners=False, antialias=True
        )
        small = torch.nn.functional.interpolate(
            whole(tiny, half)[-1], (8, 12), mode="bilinear", align_corners=False
        )
        ours = blend(tiny, picture, Views(scales=(0.5, 1.0)), stages=False)[0]
        assert torch.allclose(ours, (small + whole(tiny, picture)[-1]) / 2, atol=1e-6)

    @pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 12), (29, 31)])
    def test_any_size_gives_probabilities_of_every_stage(self, tiny, size):
        shares = blend(tiny, noise(*size), ALL, stages=True)
        assert [tuple(share.shape) for share in shares] == [(1, 3, *size)] * 3
        for share in shares:
            assert torch.allclose(share.sum(1), torch.ones(1, *size), atol=1e-5)
        alone = blend(tiny, noise(*size), ALL, stages=False)
        assert len(alone) == 1
        assert torch.equal(alone[0], shares[-1])

    def test_a_batch_equals_one_by_one(self, tiny):
        pictures = torch.cat([noise(20, 26, seed=seed) for seed in range(2)])
        both = blend(tiny, pictures, ALL, stages=False)[0]
        for index in range(2):
            one = blend(tiny, pictures[index : index + 1], ALL, stages=False)[0]
            assert torch.allclose(both[index], one[0], atol=1e-6)

    def test_large_tiles_of_a_real_model_change_little(self, real):
        with torch.inference_mode():
            picture = noise(72, 100)
            shares = blend(real, picture, Views(tile=(64, 64)), stages=True)
            assert [tuple(share.shape) for share in shares] == [(1, 4, 72, 100)] * 5
            assert all(share.isfinite().all() for share in shares)


class TestBands:
    @pytest.mark.parametrize("views", [TILES, Views(tile=(8, 12), overlap=0.6, flip=True)])
    def test_are_the_blend_cut_into_rows(self, tiny, views):
        picture = noise(29, 31)
        whole = blend(tiny, picture, views, stages=True)
        end = 0
        for rows, shares in bands(tiny, picture, views, stages=True):
            assert rows.start == end
            end = rows.stop
            for ours, all_rows in zip(shares, whole, strict=True):
                assert torch.equal(ours, all_rows[..., rows, :])
        assert end == 29

    def test_hold_a_row_of_tiles_however_high_the_picture(self, tiny):
        """Every tensor that the network is given or that comes back is of one row of tiles."""
        for rows, shares in bands(tiny, noise(400, 24), TILES, stages=True):
            assert rows.stop - rows.start <= 8
            assert {share.untyped_storage().nbytes() for share in shares} == {3 * 8 * 24 * 4}

    def test_bytes_are_taken_for_the_floats_they_stand_for(self, tiny):
        picture = torch.randint(256, (1, 3, 29, 31), dtype=torch.uint8)
        found = stage_labels(tiny, picture, views=TILES)
        floats = stage_labels(tiny, picture.float() / 255, views=TILES)
        assert torch.equal(found.final, floats.final)
        assert torch.allclose(found.logits(), floats.logits())


class TestStageLabels:
    @pytest.mark.parametrize("views", [ALL, TILES, Views(flip=True)])
    def test_are_the_arg_max_of_the_blend(self, tiny, views):
        picture = noise(20, 26)
        found = stage_labels(tiny, picture, views=views)
        shares = blend(tiny, picture, views, stages=True)
        for labels, share in zip(found.stages, shares, strict=True):
            assert torch.equal(labels.long(), share.argmax(1))
        assert torch.equal(found.final, found.stages[-1])
        assert torch.allclose(found.logits(), shares[-1].log())
        assert stage_labels(tiny, picture, stages=False, views=views).stages == []

    def test_predictor_gives_probabilities_too(self):
        picture = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
        found = Predictor(by_brightness(), device="cpu", views=ALL)(picture, stages=True)
        assert found.scores.shape == (3, 20, 26)
        assert found.scores.sum(0) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(found.scores.argmax(0), found.labels)
        assert len(found.stages) == 3


class TestViews:
    def test_says_what_it_does(self):
        assert str(Views()) == "whole pictures"
        assert str(ALL) == ("tiles of 8x12 that share 50 %, at scales 0.5, 1, 1.5, mirrored too")
        assert str(Views(scales=(2.0,))) == "whole pictures, at scale 2"

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"tile": (0, 5)}, r"each at least 1: \(0, 5\)"),
            ({"overlap": 1.0}, r"overlap in \[0, 1\).*1.0"),
            ({"overlap": -0.1}, "overlap in"),
            ({"scales": ()}, r"at least one: \[\]"),
            ({"scales": (1.0, 0.0)}, r"scales in \(0, 8\]"),
        ],
    )
    def test_errors(self, settings, message):
        with pytest.raises(ValueError, match=message):
            Views(**settings)
