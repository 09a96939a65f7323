"""Whole images, sliding window and test-time augmentation against their definitions."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pna.inference.predictor import Predictor
from pna.inference.segment import bands, blend, similarity, stage_labels
from pna.inference.tiling import TilingConfig
from pna.model.config import InferenceSize
from pna.model.presets import create_model
from pna.model.resize import resize
from tiny_segmenter import by_brightness

TILES = TilingConfig(tile=(8, 12))
ALL = TilingConfig(tile=(8, 12), overlap=0.5, scales=(0.5, 1.0, 1.5), flip=True)


def noise(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def whole(model, images):
    """Softmax of every stage at the images' size, straight from the model."""
    output = model(images, stages=True)
    small = [output.coarse, *output.stages]
    return [model.upsample(logits, images.shape[-2:]).softmax(1) for logits in small]


@pytest.fixture
def tiny():
    with torch.inference_mode():
        yield by_brightness().eval()


@pytest.fixture(scope="module")
def real():
    torch.manual_seed(0)
    return create_model("lite", num_classes=4, encoder_weights=None).eval()


class TestBlend:
    @pytest.mark.parametrize(
        "tiling",
        [
            TilingConfig(),
            TilingConfig(tile=(40, 40)),
            TilingConfig(tile=(20, 26)),
            TilingConfig(tile=(99, 26)),
        ],
    )
    def test_one_tile_is_the_whole_image(self, tiny, tiling):
        image = noise(20, 26)
        for ours, direct in zip(
            blend(tiny, image, tiling, stages=True), whole(tiny, image), strict=True
        ):
            assert torch.allclose(ours, direct, atol=1e-6)

    def test_tiles_by_hand(self, tiny):
        """Pixel by pixel from the definition: two tiles of 8 that share 4, weights sin^2."""
        image = noise(4, 12)
        left, right = (whole(tiny, image[..., s : s + 8])[0] for s in (0, 4))
        (ours, *_) = blend(tiny, image, TilingConfig(tile=(4, 8), overlap=0.5), stages=True)
        assert torch.allclose(ours[..., :4], left[..., :4], atol=1e-6)
        assert torch.allclose(ours[..., 8:], right[..., 4:], atol=1e-6)
        for x in range(4, 8):
            a, b = (np.sin(np.pi * (u + 0.5) / 8) ** 2 for u in (x, x - 4))
            mean = (a * left[..., x] + b * right[..., x - 4]) / (a + b)
            assert torch.allclose(ours[..., x], mean, atol=1e-6)

    def test_flip_is_the_mean_of_both(self, tiny):
        image = noise(13, 10)
        other = [share.flip(-1) for share in whole(tiny, image.flip(-1))]
        for ours, a, b in zip(
            blend(tiny, image, TilingConfig(flip=True), stages=True),
            whole(tiny, image),
            other,
            strict=True,
        ):
            assert torch.allclose(ours, (a + b) / 2, atol=1e-6)

    def test_flipped_views_of_a_mirrored_image_are_mirrored(self, tiny):
        image = noise(16, 30)
        tiling = TilingConfig(tile=(8, 14), overlap=0.5, flip=True)
        ours = blend(tiny, image, tiling, stages=False)[0]
        mirrored = blend(tiny, image.flip(-1), tiling, stages=False)[0]
        assert torch.allclose(ours, mirrored.flip(-1), atol=1e-6)

    def test_scales_are_averaged(self, tiny):
        image = noise(8, 12)
        half = torch.nn.functional.interpolate(
            image, (4, 6), mode="bilinear", align_corners=False, antialias=True
        )
        small = torch.nn.functional.interpolate(
            whole(tiny, half)[-1], (8, 12), mode="bilinear", align_corners=False
        )
        ours = blend(tiny, image, TilingConfig(scales=(0.5, 1.0)), stages=False)[0]
        assert torch.allclose(ours, (small + whole(tiny, image)[-1]) / 2, atol=1e-6)

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
        images = torch.cat([noise(20, 26, seed=seed) for seed in range(2)])
        both = blend(tiny, images, ALL, stages=False)[0]
        for index in range(2):
            one = blend(tiny, images[index : index + 1], ALL, stages=False)[0]
            assert torch.allclose(both[index], one[0], atol=1e-6)

    def test_large_tiles_of_a_real_model_change_little(self, real):
        with torch.inference_mode():
            image = noise(72, 100)
            shares = blend(real, image, TilingConfig(tile=(64, 64)), stages=True)
            assert [tuple(share.shape) for share in shares] == [(1, 4, 72, 100)] * 5
            assert all(share.isfinite().all() for share in shares)


class TestBands:
    @pytest.mark.parametrize("tiling", [TILES, TilingConfig(tile=(8, 12), overlap=0.6, flip=True)])
    def test_are_the_blend_cut_into_rows(self, tiny, tiling):
        image = noise(29, 31)
        whole = blend(tiny, image, tiling, stages=True)
        end = 0
        for rows, shares in bands(tiny, image, tiling, stages=True):
            assert rows.start == end
            end = rows.stop
            for ours, all_rows in zip(shares, whole, strict=True):
                assert torch.equal(ours, all_rows[..., rows, :])
        assert end == 29

    def test_hold_a_row_of_tiles_however_high_the_image(self, tiny):
        """Every tensor that the network is given or that comes back is of one row of tiles."""
        for rows, shares in bands(tiny, noise(400, 24), TILES, stages=True):
            assert rows.stop - rows.start <= 8
            assert {share.untyped_storage().nbytes() for share in shares} == {3 * 8 * 24 * 4}

    def test_bytes_are_taken_for_the_floats_they_stand_for(self, tiny):
        image = torch.randint(256, (1, 3, 29, 31), dtype=torch.uint8)
        for tiling in (TilingConfig(), TILES, ALL):
            found = stage_labels(tiny, image, tiling=tiling, scores=True)
            floats = stage_labels(tiny, image.float() / 255, tiling=tiling, scores=True)
            assert torch.equal(found.final, floats.final)
            assert torch.allclose(found.scores, floats.scores)


class TestStageLabels:
    @pytest.mark.parametrize("tiling", [ALL, TILES, TilingConfig(flip=True)])
    def test_are_the_arg_max_of_the_blend(self, tiny, tiling):
        image = noise(20, 26)
        found = stage_labels(tiny, image, tiling=tiling, scores=True)
        shares = blend(tiny, image, tiling, stages=True)
        for labels, share in zip(found.stages, shares, strict=True):
            assert torch.equal(labels.long(), share.argmax(1))
        assert torch.equal(found.final, found.stages[-1])
        assert torch.allclose(found.scores, shares[-1])
        final = stage_labels(tiny, image, stages=False, tiling=tiling)
        assert torch.equal(final.final, found.final)
        assert (final.stages, final.scores) == ([], None)

    def test_whole_images_are_the_arg_max_of_the_logits(self, tiny):
        images = torch.cat([noise(20, 26, seed=seed) for seed in range(2)])
        found = stage_labels(tiny, images, scores=True)
        for labels, probabilities in zip(found.stages, whole(tiny, images), strict=True):
            assert torch.equal(labels.long(), probabilities.argmax(1))
        assert torch.allclose(found.scores, whole(tiny, images)[-1])
        final = stage_labels(tiny, images, stages=False)
        assert torch.equal(final.final, found.final)
        assert (final.stages, final.scores) == ([], None)

    def test_predictor_gives_probabilities_too(self):
        image = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
        found = Predictor(by_brightness(), device="cpu", tiling=ALL)(
            image, stages=True, scores=True
        )
        assert found.scores.shape == (3, 20, 26)
        assert found.scores.sum(0) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(found.scores.argmax(0), found.labels)
        assert len(found.stages) == 3


class TestInferenceSize:
    """A model that knows the size it was tested at: images go in at it, labels come back."""

    @pytest.fixture
    def sized(self):
        model = by_brightness().eval()
        model.inference_size = InferenceSize(24, 40)
        with torch.inference_mode():
            yield model

    def test_logits_are_resized_twice(self, sized):
        image = (255 * noise(12, 18)).byte()
        resized = F.interpolate(image.float(), (24, 36), mode="bilinear").round() / 255
        logits = resize(sized(resized).logits, (12, 18))
        found = stage_labels(sized, image, stages=False, scores=True)
        assert torch.equal(found.final.long(), logits.argmax(1))
        torch.testing.assert_close(found.scores, logits.softmax(1))
        # The same image as floats.
        again = stage_labels(sized, image.float() / 255, stages=True)
        assert torch.equal(again.final, found.final)
        assert len(again.stages) == 3

    def test_antialiasing(self, sized):
        image = (255 * noise(60, 48)).byte()
        plain = sized.resize_images(image)
        sized.inference_size = InferenceSize(24, 40, antialias=True)
        smooth = sized.resize_images(image)
        assert plain.shape == smooth.shape == (1, 3, 30, 24)
        assert plain.dtype == torch.uint8
        assert smooth.float().std() < plain.float().std()
        pillow = Image.fromarray(image[0].permute(1, 2, 0).numpy())
        expected = np.asarray(pillow.resize((24, 30), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(smooth[0].permute(1, 2, 0).numpy() - expected).max() <= 1

    def test_tiles_are_of_the_models_size(self, sized):
        image = noise(12, 18)
        resized = sized.resize_images(image)
        found = blend(sized, image, TILES, stages=True)
        banded = stage_labels(sized, image, tiling=TILES, scores=True)
        sized.inference_size = None
        for a, b in zip(found, blend(sized, resized, TILES, stages=True), strict=True):
            torch.testing.assert_close(a, resize(b, (12, 18)))
        torch.testing.assert_close(banded.scores, found[-1])

    def test_scales_and_flip(self, sized):
        for probabilities in blend(sized, noise(12, 18), ALL, stages=True):
            assert probabilities.shape == (1, 3, 12, 18)
            torch.testing.assert_close(probabilities.sum(1), torch.ones(1, 12, 18))

    def test_the_pixel_of_a_similarity_moves_along(self, sized):
        found = similarity(sized, noise(12, 18), (17, 11))
        assert [(one.row, one.col) for one in found] == [(11, 17), (23, 35)]
        assert [one.stride for one in found] == [1.0, 0.5]

    def test_none_leaves_images_alone(self):
        image = noise(12, 18)
        assert by_brightness().resize_images(image) is image
