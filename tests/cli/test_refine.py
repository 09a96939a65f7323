"""`pna refine`, on a refiner made for the test: it moves every mask by one column."""

import argparse
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pna
from mask_networks import Bright
from pna.cli import refine
from pna.cli.pairing import find_pairs
from pna.data import DataError, DataWarning
from pna.data.gdal import open_file
from pna.errors import MissingFileError, PnaError
from pna.inference.devices import find_device
from pna.inference.masks import RefinedMask
from pna.labels import LabelSpace
from pna.refinement.masks import RefineConfig
from rasters import UTM, write_raster

H, W = 30, 40
DISK = np.zeros((H, W), bool)
DISK[8:20, 10:25] = True
LABELS = DISK.astype(np.uint8)
LABELS[20:, 30:] = 2
COLORS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 255)], np.uint8)[LABELS]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def save_photo(path, size=(H, W)):
    return save(path, np.full((*size, 3), 90, np.uint8))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def calls():
    """What the refiner was loaded with and given."""
    return []


@pytest.fixture
def configs():
    """What the refiner was told."""
    return []


def run_refine(*words, out, debug=False):
    parser = argparse.ArgumentParser()
    refine.add_arguments(parser)
    args = parser.parse_args([*map(str, words), "-o", str(out)])
    args.debug = debug
    return refine.run(args)


@pytest.fixture
def run(tmp_path, calls, configs, monkeypatch):
    """Runs the command into `tmp_path / "out"`, unless told otherwise, on a made refiner."""

    def moved(network, image, mask, config):
        assert image.shape == (*mask.shape[-2:], 3)
        calls.append(mask)
        configs.append(config)
        return RefinedMask(np.roll(mask, 1, axis=-1), np.full(mask.shape[-2:], 0.4, np.float32))

    def opened(model, *, device):
        calls.append((model, str(device)))

    monkeypatch.setattr("pna.inference.opening.open_mask_refiner", opened)
    monkeypatch.setattr("pna.inference.masks.refine_mask", moved)
    return partial(run_refine, out=tmp_path / "out")


@pytest.fixture
def folders(tmp_path):
    """Two folders with the partners a, b, c: masks of three kinds."""
    for stem in "abc":
        save_photo(tmp_path / "images" / f"{stem}.jpg")
    save(tmp_path / "masks" / "a.png", DISK)
    save(tmp_path / "masks" / "b.png", LABELS)
    np.save(tmp_path / "masks" / "c.npy", DISK / 1.0)
    return tmp_path / "images", tmp_path / "masks"


def test_the_bundled_refiner_is_the_default(tmp_path):
    pixels = np.full((H, W, 3), 30, np.uint8)
    pixels[DISK] = 200
    photo = save(tmp_path / "p.png", pixels)
    mask = save(tmp_path / "m.png", np.roll(DISK, 2, axis=0))
    assert run_refine(photo, mask, out=tmp_path / "out") == 0
    expected = pna.refine(pixels, np.roll(DISK, 2, axis=0))
    np.testing.assert_array_equal(read(tmp_path / "out" / "m.png"), expected)


@pytest.mark.parametrize("name", ["none.safetensors", "."])
def test_weights_that_are_not_there(tmp_path, name):
    photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", DISK)
    with pytest.raises(PnaError, match=re.escape(str(tmp_path / name))):
        run_refine(photo, mask, "--model", tmp_path / name, out=tmp_path / "out")


class TestRun:
    def test_a_mask_is_refined(self, run, tmp_path, calls, capsys):
        photo, mask = save_photo(tmp_path / "photo.jpg"), save(tmp_path / "m.png", DISK)
        assert run(photo, mask, "--model", "own", "--device", "cpu") == 0
        assert names(tmp_path / "out") == ["m.png"]
        np.testing.assert_array_equal(read(tmp_path / "out" / "m.png"), np.roll(DISK, 1, axis=1))
        loaded, given = calls
        assert loaded == (Path("own"), "cpu")
        np.testing.assert_array_equal(given, DISK)
        out, err = capsys.readouterr()
        assert out == (
            f"[1/1] {mask}: 40 x 30, binary, 2 % of the pixels changed\n"
            f"refined 1 mask: 2 % of the pixels changed; in {tmp_path / 'out'}\n"
        )
        assert err == ""

    def test_two_folders(self, run, folders, tmp_path, capsys):
        assert run(*folders) == 0
        assert names(tmp_path / "out") == ["a.png", "b.png", "c.npy"]
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "c.npy"), np.roll(DISK, 1, axis=1))
        out, err = capsys.readouterr()
        last = out.splitlines()[-1]
        assert last.startswith(
            "refined 3 masks: 2 % of the pixels changed in the median, 3.7 % at "
        )
        assert last.endswith(f"most (b.png); in {tmp_path / 'out'}")
        assert re.findall(r"^\S+b\.png: 3 gray levels \(0, 1, 2\), which fill areas: ", err, re.M)

    def test_all_masks_of_one_image(self, run, folders, tmp_path, calls, capsys):
        assert run(folders[0] / "a.jpg", folders[1]) == 0
        assert len(calls) == 1 + 3  # loaded once
        assert names(tmp_path / "out") == ["a.png", "b.png", "c.npy"]
        assert "refined 3 masks" in capsys.readouterr().out

    def test_images_without_a_mask_are_left_out(self, run, folders, capsys):
        save_photo(folders[0] / "d.jpg")
        (folders[1] / "notes.txt").touch()
        assert run(*folders) == 0
        out, err = capsys.readouterr()
        assert "left out notes.txt: not ending in .jpg, " in err
        assert "left out 1 images without a mask\n" in err
        assert out.count("\n") == 4

    def test_a_bad_mask_does_not_stop_the_others(self, run, folders, tmp_path, capsys):
        (folders[1] / "a.png").write_bytes(b"broken")
        save_photo(folders[0] / "b.jpg", (W, H))
        assert run(*folders) == 1
        assert names(tmp_path / "out") == ["c.npy"]
        out, err = capsys.readouterr()
        assert f"[1/3] {folders[1] / 'a.png'}: failed: cannot read the mask" in err
        assert "b.png: failed: mask " in err
        assert "width and height are swapped" in err
        assert err.endswith("2 of 3 masks failed\n")
        assert out.startswith(f"[3/3] {folders[1] / 'c.npy'}: 40 x 30, soft")
        assert out.splitlines()[-1].startswith("refined 1 mask: ")

    def test_errors_pass_with_debug(self, run, tmp_path):
        photo = save_photo(tmp_path / "photo.jpg")
        (tmp_path / "m.png").write_bytes(b"broken")
        with pytest.raises(DataError, match="cannot read the mask"):
            run(photo, tmp_path / "m.png", debug=True)

    def test_all_fail(self, run, tmp_path, capsys):
        photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", DISK[1:])
        assert run(photo, mask) == 1
        assert capsys.readouterr().out == ""

    def test_a_mask_without_an_edge_is_written_unchanged(self, run, tmp_path, calls, capsys):
        photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", 0 * LABELS)
        with pytest.warns(DataWarning, match="has no edge to refine: it is empty; it stays"):
            assert run(photo, mask) == 0
        assert calls == [(None, str(find_device()))]
        assert not read(tmp_path / "out" / "m.png").any()
        assert "binary, 0 % of the pixels changed" in capsys.readouterr().out

    def test_a_jpeg_becomes_png_which_is_said_once(self, run, tmp_path, capsys):
        for stem in "ab":
            save_photo(tmp_path / "images" / f"{stem}.png")
            save(tmp_path / "masks" / f"{stem}.jpg", LABELS.clip(0, 1) * np.uint8(255), quality=70)
        assert run(tmp_path / "images", tmp_path / "masks") == 0
        assert names(tmp_path / "out") == ["a.png", "b.png"]
        err = capsys.readouterr().err
        assert err.count("masks like a.jpg are written as .png files") == 1
        assert err.count("taken for a soft mask") == 1

    def test_mixed_guesses_are_counted(self, run, tmp_path, capsys):
        for stem in "abc":
            save_photo(tmp_path / "images" / f"{stem}.png")
        save(tmp_path / "masks" / "a.png", LABELS)
        for stem in "bc":
            save(tmp_path / "masks" / f"{stem}.png", COLORS)
        assert run(tmp_path / "images", tmp_path / "masks") == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert "; guessed 2 colors, 1 labels, --kind takes all for one; in " in last

    def test_compare(self, run, tmp_path):
        photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", COLORS)
        assert run(photo, mask, "--compare") == 0
        assert names(tmp_path / "out") == ["m.png", "m_compare.png"]
        figure = read(tmp_path / "out" / "m_compare.png")
        assert figure.shape[1] == 3 * 480 + 4 * 12
        assert (figure == (230, 159, 0)).all(axis=2).sum() > 1000

    def test_errors(self, run, tmp_path):
        photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", COLORS)
        assert run(photo, mask, "--errors") == 0
        assert names(tmp_path / "out") == ["m.png", "m_errors.png"]
        np.testing.assert_array_equal(
            read(tmp_path / "out" / "m_errors.png"), np.full((H, W), 102, np.uint8)
        )

    def test_a_cut_out_gets_the_colors_of_its_image(self, run, tmp_path):
        cutout = np.dstack([DISK[..., None] * np.full(3, 90, np.uint8), DISK * np.uint8(255)])
        photo, mask = save_photo(tmp_path / "p.png"), save(tmp_path / "m.png", cutout)
        assert run(photo, mask, "--kind", "alpha") == 0
        written = read(tmp_path / "out" / "m.png")
        np.testing.assert_array_equal(written[..., 3], np.roll(cutout[..., 3], 1, axis=1))
        assert (written[written[..., 3] > 0, :3] == 90).all()


class TestOptions:
    @pytest.fixture
    def refined(self, run, tmp_path):
        """Refines one mask and returns what was written."""

        def refine_one(pixels, *words):
            photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", pixels)
            assert run(photo, mask, *words) == 0
            return read(tmp_path / "out" / "m.png")

        return refine_one

    def test_kind(self, refined, calls):
        refined(LABELS * np.uint8(100), "--kind", "soft")
        assert calls[1].dtype == np.float32

    def test_strength_and_radius(self, refined, configs):
        refined(LABELS)
        refined(LABELS, "--strength", "0.25", "--radius", "3")
        assert configs == [RefineConfig(), RefineConfig(strength=0.25, radius=3)]

    def test_classes(self, refined, configs):
        refined(LABELS, "--classes", "2")
        assert configs == [RefineConfig(classes=(2,))]

    def test_colors_name_classes(self, refined, configs, tmp_path, capsys):
        import json

        space = LabelSpace("own", ("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 255)))
        (tmp_path / "own.json").write_text(json.dumps(space.to_dict()))
        words = ("--colors", tmp_path / "own.json", "--classes", "c,b")
        written = refined(COLORS, *words)
        np.testing.assert_array_equal(written, np.roll(COLORS, 1, axis=1))
        assert "taken for a class" not in capsys.readouterr().err
        assert configs == [RefineConfig(classes=(1, 2))]

    def test_colors_are_classes(self, refined, calls, configs):
        refined(COLORS, "--classes", "#00ffff,#123456")
        (label,) = configs[0].classes
        np.testing.assert_array_equal(calls[1] == label, LABELS == 2)

    def test_resize(self, refined):
        small = LABELS[::2, ::2]
        written = refined(small, "--resize")
        expected = np.roll(small.repeat(2, axis=0).repeat(2, axis=1), 1, axis=1)
        np.testing.assert_array_equal(written, expected)

    @pytest.mark.parametrize(
        ("pixels", "classes", "message"),
        [
            (LABELS, "roof", "no class 'roof' in the mask .*m.png: expected label numbers"),
            (COLORS, "1", "no class '1' in the mask .*: expected #000000, #00ffff, #ff0000"),
            (DISK, "1", "is foreground and background: expected labels, colors or prob"),
        ],
    )
    def test_classes_that_are_not_there(self, run, pixels, classes, message, tmp_path, capsys):
        photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", pixels)
        assert run(photo, mask, "--classes", classes) == 1
        assert re.search(f"failed: .*{message}", capsys.readouterr().err)

    def test_a_mask_without_the_classes_is_told(self, refined, capsys):
        refined(LABELS, "--classes", "7")
        assert "pixels changed: it has none of the classes 7" in capsys.readouterr().out

    def test_a_file_is_no_folder(self, run, tmp_path):
        photo, mask = save_photo(tmp_path / "p.jpg"), save(tmp_path / "m.png", LABELS)
        (tmp_path / "taken").touch()
        with pytest.raises(PnaError, match="taken is a file: expected a folder"):
            run(photo, mask, out=tmp_path / "taken")

    def test_numbers_are_those_of_the_file(self, refined, calls, configs):
        """16 bits hold larger numbers than a label: they are numbered anew inside."""
        wide = LABELS.astype(np.uint16) * 1000
        written = refined(wide, "--classes", "2000,7")
        (label,) = configs[0].classes
        np.testing.assert_array_equal(calls[1] == label, LABELS == 2)
        assert written.max() == 2000

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--strength", "1.5"), r"expected a strength in \[0, 1\], got 1.5"),
            (("--radius", "-1"), "expected a radius of at least 0 pixels, got -1"),
            (("--colors", "nowhere.json"), "nowhere.json: expected the JSON file of a label space"),
        ],
    )
    def test_wrong_use_ends_the_command_before_any_work(
        self, run, folders, words, message, calls, tmp_path
    ):
        with pytest.raises(PnaError, match=rf"^{message}"):
            run(*folders, *words)
        assert calls == []
        assert not (tmp_path / "out").exists()

    def test_an_unknown_kind(self, run, capsys):
        with pytest.raises(SystemExit) as end:
            run("a.jpg", "a.png", "--kind", "index")
        assert end.value.code == 2
        assert "invalid choice: 'index'" in capsys.readouterr().err


class TestNames:
    """Results never replace inputs, and no two results share a name."""

    @pytest.mark.parametrize(("folder", "what"), [("images", "image a"), ("masks", "mask a")])
    def test_out_among_the_inputs(self, run, folders, folder, what, tmp_path, calls):
        with pytest.raises(PnaError, match=rf"^--out .*{folder} holds the {what}"):
            run(*folders, out=tmp_path / folder)
        assert calls == []

    def test_out_is_no_image(self, run, folders, tmp_path):
        with pytest.raises(PnaError, match=r"out\.png: expected a folder; the mask in it keeps"):
            run(*folders, out=tmp_path / "out.png")

    def test_two_results_of_one_name(self, run, tmp_path):
        for folder in "xy":
            for stem in ("a", "a_compare"):
                save_photo(tmp_path / "images" / folder / f"{stem}.jpg")
                save(tmp_path / "masks" / f"{stem}.png", DISK)
        words = (tmp_path / "images" / "x", tmp_path / "masks")
        assert run(*words) == 0
        with pytest.raises(PnaError, match=r"a\.png and .*a_compare\.png would both be written to"):
            run(*words, "--compare")


class TestPairs:
    """Images and masks in all forms of the two arguments."""

    @staticmethod
    def stems(found):
        return [(pair.image.name, pair.mask.name) for pair in found.pairs]

    @pytest.fixture
    def tiles(self, tmp_path):
        """One folder with images and masks."""
        for number in (1, 2):
            save_photo(tmp_path / f"x_{number}.jpg")
            save(tmp_path / f"y_{number}_mask.png", DISK)
        return tmp_path

    def test_files_of_any_names(self, tiles):
        found = find_pairs(str(tiles / "x_1.jpg"), str(tiles / "y_2_mask.png"))
        assert self.stems(found) == [("x_1.jpg", "y_2_mask.png")]

    @pytest.mark.parametrize(
        ("image", "mask"),
        [("x_*.jpg", "y_*_mask.png"), ("x_*", "y_*_mask.png"), ("x_*.jpg", "y_*_mask*")],
    )
    def test_the_text_under_the_star(self, tiles, image, mask):
        if mask.count("*") > 1:  # then the stems count, which differ here
            with pytest.raises(
                DataError, match=r"^no image for 'y_1_mask', the mask .*y_1_mask.pn"
            ):
                find_pairs(str(tiles / image), str(tiles / mask))
            return
        found = find_pairs(str(tiles / image), str(tiles / mask))
        assert self.stems(found) == [("x_1.jpg", "y_1_mask.png"), ("x_2.jpg", "y_2_mask.png")]

    def test_a_pattern_of_images_may_take_in_the_masks(self, tmp_path):
        for number in (1, 2):
            save_photo(tmp_path / f"{number}.png")
            save(tmp_path / f"{number}_mask.png", DISK)
        found = find_pairs(str(tmp_path / "*.png"), str(tmp_path / "*_mask.png"))
        assert self.stems(found) == [("1.png", "1_mask.png"), ("2.png", "2_mask.png")]
        assert found.without_mask == []
        with pytest.raises(DataError, match=r"^no image for '1', .*\(none\), masks those of"):
            find_pairs(str(tmp_path / "*_mask.png"), str(tmp_path / "*_mask.png"))

    def test_a_folder_and_a_pattern(self, folders):
        found = find_pairs(str(folders[0]), str(folders[1] / "*.png"))
        assert self.stems(found) == [("a.jpg", "a.png"), ("b.jpg", "b.png")]
        assert [path.name for path in found.without_mask] == ["c.jpg"]

    def test_a_mask_without_an_image(self, folders):
        (folders[0] / "b.jpg").unlink()
        message = "no image for 'b'.*: images are in .*, masks in"
        with pytest.raises(DataError, match=message):
            find_pairs(str(folders[0]), str(folders[1]))
        with pytest.raises(
            DataError, match=r"^no image for 'b', the mask .*b\.png: images are those"
        ):
            find_pairs(str(folders[0] / "*.jpg"), str(folders[1]))

    def test_one_folder_for_both(self, tiles):
        with pytest.raises(
            PnaError, match="for images and masks: give a pattern for each, such as"
        ):
            find_pairs(str(tiles), str(tiles))

    def test_one_image_and_its_masks(self, folders, tmp_path):
        found = find_pairs(str(folders[0] / "a.jpg"), str(folders[1]))
        assert self.stems(found) == [("a.jpg", "a.png"), ("a.jpg", "b.png"), ("a.jpg", "c.npy")]
        assert found.without_mask == []
        photo = save_photo(tmp_path / "photo.png")
        save(tmp_path / "0.png", DISK)
        found = find_pairs(str(photo), str(tmp_path / "*.png"))
        assert self.stems(found) == [("photo.png", "0.png")]
        with pytest.raises(PnaError, match=r"photo\.png for the image and, by .*, for the only"):
            find_pairs(str(photo), str(tmp_path / "photo.*"))

    def test_many_images_and_one_mask(self, folders):
        with pytest.raises(
            PnaError, match=r"the mask .*a\.png for the images of .*: expected an im"
        ):
            find_pairs(str(folders[0]), str(folders[1] / "a.png"))

    def test_one_name_twice(self, folders):
        save(folders[1] / "inside" / "a.png", DISK)
        pattern = str(folders[1] / "**" / "*.png")
        with pytest.raises(
            PnaError, match=r"masks/a\.png and .*inside/a\.png have one name, 'a', by"
        ):
            find_pairs(str(folders[0]), pattern)

    @pytest.mark.parametrize(
        ("image", "mask", "message"),
        [
            ("images", "nowhere", "no mask or folder at .*nowhere"),
            ("nowhere.jpg", "masks/a.png", r"no image or folder at .*nowhere\.jpg"),
            ("images", "masks/*.tif", "no masks match the pattern"),
            ("images", "empty", r"no masks in the folder .*: expected files ending in .*\.npz"),
        ],
    )
    def test_nothing_found(self, folders, tmp_path, image, mask, message):
        (tmp_path / "empty").mkdir()
        with pytest.raises(MissingFileError, match=rf"^{message}"):
            find_pairs(str(tmp_path / image), str(tmp_path / mask))


def test_the_help_ends_with_examples():
    parser = argparse.ArgumentParser()
    refine.add_arguments(parser)
    assert parser.epilog.startswith("examples:\n  pna refine photo.jpg mask.png -o out\n")
    text = parser.format_help()
    for option in (
        "kind",
        "colors",
        "resize",
        "strength",
        "radius",
        "classes",
        "compare",
        "device",
    ):
        assert f"--{option}" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1e-7, "less than 0.001 %"), (0.00013, "0.013 %"), (0.02, "2 %"), (0.374, "37 %")],
)
def test_percent(share, text):
    assert refine._percent(share) == text


class TestRasters:
    """Images with a place on the earth, and masks of one band."""

    @pytest.fixture
    def scene(self, tmp_path, monkeypatch):
        """Image and mask of the same place; the refiner takes what is bright for foreground."""
        monkeypatch.setattr(
            "pna.inference.opening.open_mask_refiner", lambda model, *, device: Bright()
        )
        image = np.where(DISK, 220, 30).astype(np.uint8)[None].repeat(3, axis=0)
        mask = np.where(np.roll(DISK, 2, axis=1), 7, 3).astype(np.uint8)
        return (
            write_raster(tmp_path / "scene.tif", image),
            write_raster(tmp_path / "mask.tif", mask[None]),
        )

    def test_a_mask_is_refined_at_its_place(self, scene, tmp_path, capsys):
        assert run_refine(*scene, out=tmp_path / "out") == 0
        assert names(tmp_path / "out") == ["mask.tif"]
        with open_file(tmp_path / "out" / "mask.tif") as file:
            assert file.crs == UTM
            np.testing.assert_array_equal(file.read(1), np.where(DISK, 7, 3))
        told = capsys.readouterr()
        assert "mask.tif: 40 x 30, 4 % of the pixels changed" in told.out
        assert "refined 1 mask: 4 % of the pixels changed" in told.out

    def test_classes_are_values(self, scene, tmp_path, capsys):
        assert run_refine(*scene, "--classes", "3,7", out=tmp_path / "out") == 0
        assert run_refine(*scene, "--classes", "5", out=tmp_path / "other") == 1
        assert "expected classes of its values 3, 7, got 5" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--compare", "--errors", "--resize", "--kind=labels"])
    def test_options_of_images_that_are_read_whole(self, scene, tmp_path, option):
        with pytest.raises(PnaError, match=f"{option.partition('=')[0]} is for images"):
            run_refine(*scene, option, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_16_bits_need_a_scale(self, scene, tmp_path, capsys):
        image = np.where(DISK, 3000, 400).astype(np.uint16)[None].repeat(3, axis=0)
        write_raster(scene[0], image)
        assert run_refine(*scene, out=tmp_path / "out") == 1
        assert "--scale" in capsys.readouterr().err
        assert run_refine(*scene, "--scale", "0,4095", out=tmp_path / "out") == 0
