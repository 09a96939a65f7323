import numpy as np
import pytest
from PIL import Image

from pna.data import DataError, DataWarning
from pna.data.masks.files import read_mask, write_mask
from pna.data.masks.sizes import fit_to_image

LABELS = np.zeros((30, 40), np.uint8)
LABELS[10:, 15:] = 1
LABELS[20:, 30:] = 2


@pytest.fixture
def mask(tmp_path):
    Image.fromarray(LABELS).save(tmp_path / "a.png")
    return read_mask(tmp_path / "a.png")


def test_the_same_size_is_the_mask_itself(mask):
    assert fit_to_image(mask, (30, 40), "a.jpg") is mask


@pytest.mark.parametrize("size", [(60, 80), (301, 400), (15, 20)])
def test_the_same_aspect_offers_resizing(mask, size):
    message = (
        rf"^mask .*a\.png has 40 x 30 pixels, its image a\.jpg {size[1]} x {size[0]}: expected the "
        r"same size\. The aspect is the same, so the mask would fit after resizing: give --resize"
    )
    with pytest.raises(DataError, match=message):
        fit_to_image(mask, size, "a.jpg")
    resized = fit_to_image(mask, size, "a.jpg", resize=True)
    assert resized.size == size
    assert resized.array.dtype == np.uint8
    expected = LABELS[
        ((np.arange(size[0]) + 0.5) * 30 / size[0]).astype(int)[:, None],
        ((np.arange(size[1]) + 0.5) * 40 / size[1]).astype(int),
    ]
    np.testing.assert_array_equal(resized.array, expected)


@pytest.mark.parametrize("size", [(40, 30), (400, 301)])
@pytest.mark.parametrize("resize", [False, True])
def test_swapped_sides_are_named_with_their_likely_cause(mask, size, resize):
    message = r"width and height are swapped\. Probably the image has an EXIF orientation"
    with pytest.raises(DataError, match=message):
        fit_to_image(mask, size, "a.jpg", resize=resize)


def test_another_aspect(mask):
    message = r"40 x 30 pixels.* 64 x 64: .*the aspects differ too \(1\.333 and 1\.000\)\. Check"
    with pytest.raises(DataError, match=message):
        fit_to_image(mask, (64, 64), "a.jpg")
    with pytest.warns(DataWarning, match="resizing changes the aspect"):
        assert fit_to_image(mask, (64, 64), "a.jpg", resize=True).size == (64, 64)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_shares_are_interpolated(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.array([[0, 1]], dtype))
    mask = fit_to_image(read_mask(tmp_path / "a.npy"), (2, 4), "a.jpg", resize=True)
    assert mask.array.dtype == dtype
    np.testing.assert_allclose(mask.array, [[0, 0.25, 0.75, 1]] * 2)


def test_probabilities_keep_their_sum(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.random((3, 5, 7))
    np.save(tmp_path / "a.npy", scores / scores.sum(axis=0))
    mask = fit_to_image(read_mask(tmp_path / "a.npy"), (10, 14), "a.jpg", resize=True)
    assert mask.array.shape == (3, 10, 14)
    np.testing.assert_allclose(mask.array.sum(axis=0), 1, atol=1e-6)


def test_a_resized_binary_mask_and_a_cut_out_are_written_at_the_new_size(tmp_path):
    alpha = np.where(LABELS, 255, 0).astype(np.uint8)
    cutout = np.dstack([np.full((30, 40, 3), 77, np.uint8), alpha])
    Image.fromarray(cutout).save(tmp_path / "a.png")
    mask = fit_to_image(read_mask(tmp_path / "a.png", kind="alpha"), (60, 80), "a.jpg", resize=True)
    assert mask.array.dtype == bool
    write_mask(mask, mask.array, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as written:
        np.testing.assert_array_equal(np.array(written), cutout.repeat(2, axis=0).repeat(2, axis=1))
