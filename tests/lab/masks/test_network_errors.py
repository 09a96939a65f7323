"""Masks that networks predict, as examples of errors to refine."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pna.errors import PnaError
from pna.lab.masks import network_errors
from pna.lab.masks.examples import draw_example
from pna.lab.masks.network_errors import Variant, with_errors, write_errors
from pna.lab.masks.scenes import Scene, choose_error, read_scene
from pna.lab.masks.training import draw_batch

TINY = Variant("tiny", "lite", "test_resnet", 2, ("coarse", "fine"))


@pytest.fixture
def scenes(tmp_path):
    """Four images of two disks each."""
    found = []
    y, x = np.mgrid[:72, :96]
    for i in range(4):
        objects = np.zeros((72, 96), np.uint8)
        objects[(y - 36) ** 2 + (x - 24 - i) ** 2 < 15**2] = 1
        objects[(y - 36) ** 2 + (x - 66) ** 2 < 15**2] = 2
        image = np.where(objects[..., None] > 0, (200, 180, 40), (30, 60, 90)).astype(np.uint8)
        files = tmp_path / f"{i}.png", tmp_path / f"{i}_objects.png"
        for file, pixels in zip(files, (image, objects), strict=True):
            Image.fromarray(pixels).save(file)
        found.append(Scene(*files, "disk"))
    return found


def with_mask(scene, mask, path):
    Image.fromarray(mask.astype(np.uint8)).save(path)
    return replace(scene, errors=(path,))


def test_each_half_is_segmented_by_the_network_of_the_other(scenes, tmp_path, monkeypatch):
    seen = []
    original = network_errors.cut_part

    def spy(image, objects, side, rng):
        seen.append(int(np.flatnonzero((objects == 1).any(0))[0]) - 10)  # the image's number
        return original(image, objects, side, rng)

    monkeypatch.setattr(network_errors, "cut_part", spy)
    write_errors(scenes, tmp_path / "errors", TINY, weights=None, side=64, batch_size=4)
    assert set(seen[:8]) <= {0, 2}
    assert set(seen[8:]) <= {1, 3}
    found = with_errors(scenes, tmp_path / "errors")
    names = [[path.parent.name for path in scene.errors] for scene in found]
    assert names == [["tiny-coarse", "tiny-fine"]] * 4
    for scene in found:
        for path in scene.errors:
            with Image.open(path) as mask:
                assert (mask.size, mask.mode) == ((96, 72), "L")


def test_one_scene_has_no_halves(scenes, tmp_path):
    with pytest.raises(PnaError, match="two scenes or more"):
        write_errors(scenes[:1], tmp_path, TINY)


def test_a_folder_without_masks_of_the_scenes_is_refused(scenes, tmp_path):
    (tmp_path / "errors" / "tiny-fine").mkdir(parents=True)
    with pytest.raises(PnaError, match="errors: expected masks of networks"):
        with_errors(scenes, tmp_path / "errors")


def test_a_mask_of_the_foreground_becomes_that_of_one_object(scenes, tmp_path):
    _, objects = read_scene(scenes[0])
    scene = with_mask(scenes[0], 255 * (objects > 0), tmp_path / "m.png")
    given = choose_error(scene, objects, objects == 1, np.random.default_rng(0))
    np.testing.assert_array_equal(given, objects == 1)


def test_what_lies_far_from_the_object_is_no_error_of_it(scenes, tmp_path):
    _, objects = read_scene(scenes[0])
    predicted = objects == 1
    predicted[:5, 80:] = True
    scene = with_mask(scenes[0], 255 * predicted, tmp_path / "m.png")
    given = choose_error(scene, objects, objects == 1, np.random.default_rng(0))
    np.testing.assert_array_equal(given, objects == 1)


def test_a_mask_of_something_else_is_not_taken(scenes, tmp_path):
    _, objects = read_scene(scenes[0])
    scene = with_mask(scenes[0], 255 * (objects == 2), tmp_path / "m.png")
    assert choose_error(scene, objects, objects == 1, np.random.default_rng(0)) is None


def test_a_mask_of_another_size_is_refused(scenes, tmp_path):
    _, objects = read_scene(scenes[0])
    scene = with_mask(scenes[0], np.zeros((4, 5)), tmp_path / "m.png")
    with pytest.raises(PnaError, match=r"m\.png: expected a mask of \(72, 96\)"):
        choose_error(scene, objects, objects == 1, np.random.default_rng(0))


def test_examples_carry_the_networks_mask_in_place(scenes, tmp_path):
    # The network saw every object two pixels too far left.
    shifted = []
    for i, scene in enumerate(scenes):
        _, objects = read_scene(scene)
        moved = np.roll(objects > 0, -2, axis=1)
        shifted.append(with_mask(scene, 255 * moved, tmp_path / f"m{i}.png"))
    draws = [draw_example(shifted, (64, 64), np.random.default_rng(s)) for s in range(80)]
    given = [example for example in draws if example.given is not None]
    assert 8 < len(given) < 40
    for example in given:
        assert example.given.shape == example.mask.shape
        differ = (example.given > 0.5) != example.mask
        assert 0 < differ.mean() < 0.25
    batch = draw_batch(shifted, 0, size=(64, 64), batch_size=8, seed=0)
    assert batch.given.shape == (8, 1, 64, 64)
    assert 0 <= batch.given.min() <= batch.given.max() <= 1
