from functools import partial

import numpy as np
import pytest
from PIL import Image

from pna.data import CamVid, Cityscapes, DataError, DataWarning, Folder, create_dataset
from pna.data.check import check_split, inspect, remark_on_labels, spread, warn_of_labels
from pna.data.synthetic import write_camvid, write_cityscapes, write_folder
from pna.labels import IGNORE_INDEX, LabelSpace, generic

SIZE = (12, 16)


@pytest.fixture
def root(tmp_path):
    return write_camvid(tmp_path / "camvid", num_train=6, num_val=2, size=SIZE)


def check(root, split="train", **options):
    return check_split(lambda: CamVid(root, split), split, **options)


def test_a_whole_split_has_no_problems(root):
    report = check(root, expected=6)
    assert report.problems == []
    assert (report.num_pairs, report.num_checked, report.expected) == (6, 6, 6)
    assert dict(report.sizes) == {SIZE: 6}


def test_classes_are_counted_in_pixels_and_images(root):
    report = check(root)
    labels = np.stack([CamVid(root).read_raw(index)[1].numpy() for index in range(6)])
    for index, share in enumerate(report.shares):
        of_class = labels == index
        assert share == pytest.approx(of_class.sum() / (labels != IGNORE_INDEX).sum())
        assert report.images[index] == of_class.any(axis=(1, 2)).sum()
    assert sum(report.shares) == pytest.approx(1)
    assert report.ignored_share == pytest.approx((labels == IGNORE_INDEX).mean())


def test_all_that_is_wrong_is_listed_at_once(root):
    pairs = CamVid(root).pairs
    pairs[0].mask.unlink()
    pairs[1].image.unlink()
    Image.new("RGB", (3, 3)).save(pairs[2].image)
    pairs[3].image.write_bytes(b"nothing")
    Image.new("L", SIZE[::-1], 200).save(pairs[3].mask)
    pairs[4].mask.write_bytes(pairs[4].mask.read_bytes()[:50])
    report = check(root, expected=6)
    wanted = [
        "expected 6 images with masks, as published; found 4",
        "no image for '0001TP_000001'",
        "no mask for '0001TP_000000'",
        "sizes differ",
        "can't read",  # and of the same pair:
        "has labels [200]",
        "cannot read the mask",
    ]
    assert len(report.problems) == len(wanted)
    for problem, beginning in zip(report.problems, wanted, strict=True):
        assert beginning in problem
    assert pairs[3].image.name in report.problems[4]
    assert pairs[4].mask.name in report.problems[6]
    assert (report.num_pairs, report.num_checked) == (4, 4)
    assert dict(report.sizes) == {SIZE: 2, (3, 3): 1}


def test_a_split_that_is_not_there_is_one_problem(root):
    report = check(root, "test", expected=233)
    assert len(report.problems) == 1
    assert "no folder" in report.problems[0]
    assert (report.num_pairs, report.num_checked, report.classes, report.shares) == (0, 0, (), [])


def test_a_split_without_any_mask_is_checked(root):
    for pair in CamVid(root).pairs:
        pair.mask.unlink()
    report = check(root)
    assert len(report.problems) == 6
    assert (report.num_pairs, report.num_checked, report.ignored_share) == (0, 0, 0)


def test_workers_change_nothing(root):
    CamVid(root).pairs[2].mask.write_bytes(b"nothing")
    assert check(root, num_workers=2).to_dict() == check(root).to_dict()


def test_the_limit_spreads_what_is_opened(root):
    CamVid(root).pairs[1].mask.write_bytes(b"nothing")
    report = check(root, limit=3, expected=6)
    assert (report.num_pairs, report.num_checked, report.problems) == (6, 3, [])
    assert spread(6, 3) == [0, 2, 4]
    assert spread(2, 5) == [0, 1]
    assert spread(3, None) == [0, 1, 2]
    assert spread(0, 4) == []


def test_progress_sees_every_finding(root):
    seen = []

    def follow(findings, number):
        assert number == 6
        for finding in findings:
            seen.append(finding.size)
            yield finding

    assert check(root, follow=follow).num_checked == 6
    assert seen == [SIZE] * 6


def test_a_finding_of_one_pair(root):
    dataset = CamVid(root)
    finding = inspect(dataset, 0)
    assert (finding.problems, finding.size, finding.pixels.sum()) == ([], SIZE, 12 * 16)
    dataset.pairs[0].image.write_bytes(b"")
    finding = inspect(dataset, 0)
    assert finding.size is None
    assert len(finding.problems) == 1


def test_a_data_set_is_strict_again_after_a_check(root):
    CamVid(root).pairs[0].mask.unlink()
    assert len(check(root).problems) == 1
    with pytest.raises(DataError, match="no mask for"):
        create_dataset("camvid", root, "train")


def test_what_was_found_as_plain_values(root):
    entries = check(root, expected=7).to_dict()
    assert entries["sizes"] == [[12, 16, 6]]
    assert entries["problems"] == ["expected 7 images with masks, as published; found 6"]
    assert entries["classes"][0].keys() == {"name", "share", "images"}
    assert [entry["name"] for entry in entries["classes"]] == list(CamVid(root).labels.classes)


class TestSuspiciousData:
    """Data that can be read and are probably not what was meant: a problem with its remedy."""

    ROOFS = LabelSpace("roofs", ("ground", "roof"), ((0, 0, 0), (200, 60, 40)))

    @pytest.fixture
    def folder(self, tmp_path):
        return write_folder(tmp_path, generic(2), num_images=3, size=SIZE)

    def write_masks(self, folder, values):
        for file, value in zip(sorted((folder / "masks").iterdir()), values, strict=True):
            mask = np.zeros(SIZE, np.uint8)
            mask[2:8, 3:9] = value
            Image.fromarray(mask).save(file)
        return partial(Folder, folder, labels=self.ROOFS)

    def test_black_and_white_masks_read_as_indices(self, folder):
        create = self.write_masks(folder, [255] * 3)
        [problem] = check_split(create, None).problems
        assert problem.startswith(
            "besides 255 (ignored) only class 'ground' occurs, so there is no"
        )
        assert "read them as colors (masks: color)" in problem
        with pytest.warns(
            DataWarning, match="^in 3 masks besides 255 .ignored. only class 'ground'"
        ):
            warn_of_labels(create())
        with pytest.warns(DataWarning, match="^in 1 masks"):
            warn_of_labels(create(), num_masks=1)

    def test_the_remedy_helps(self, folder):
        self.write_masks(folder, [255] * 3)
        space = LabelSpace("roofs", ("ground", "roof"), ((0, 0, 0), (255, 255, 255)))
        create = partial(Folder, folder, labels=space, masks="color")
        assert check_split(create, None).problems == []
        warn_of_labels(create())

    def test_everything_ignored(self, folder):
        for file in (folder / "masks").iterdir():
            Image.new("L", SIZE[::-1], 255).save(file)
        [problem] = check_split(partial(Folder, folder, labels=self.ROOFS), None).problems
        assert problem.startswith(
            "every pixel is ignored (255), so there is nothing to learn or to"
        )
        assert "expected class indices 0..1 (roofs) in the masks" in problem

    def test_withheld_labels_are_no_problem(self, tmp_path):
        create = partial(Cityscapes, write_cityscapes(tmp_path, size=SIZE), "test")
        assert check_split(create, "test").problems == []

    @pytest.mark.parametrize("present", [[0, 1, 255], [1], []])
    def test_other_labels_pass(self, present):
        pixels = np.bincount(np.array(present, dtype=int), minlength=256)
        assert remark_on_labels(generic(3), pixels) is None

    def test_a_single_class(self):
        remark = remark_on_labels(generic(1), np.ones(256, dtype=int))
        assert remark.startswith("label space 'generic-1' has one class, 'class_0', so every pixel")

    def test_bad_masks_are_passed_over(self, folder):
        create = self.write_masks(folder, [255] * 3)
        next((folder / "masks").iterdir()).write_bytes(b"nothing")
        with pytest.warns(DataWarning, match="only class 'ground'"):
            warn_of_labels(create())

    def test_images_of_twelve_bits_are_named(self, folder):
        create = self.write_masks(folder, [1] * 3)
        Image.fromarray(np.full(SIZE, 4095, np.uint16)).save(folder / "images" / "10001.png")
        [problem] = check_split(create, None, num_workers=1).problems
        assert problem.startswith(f"image {folder / 'images' / '10001.png'}: a 16-bit image holds")

    def test_pairs_with_endings_that_are_not_read_are_named(self, folder):
        create = self.write_masks(folder, [1] * 3)
        for place in ("images", "masks"):
            (folder / place / "10001.png").rename(folder / place / "10001.gif")
        report = check_split(create, None)
        assert report.num_pairs == 2
        [problem] = report.problems
        assert problem.startswith(
            f"1 pairs are left out, such as {folder / 'images' / '10001.gif'}"
        )
