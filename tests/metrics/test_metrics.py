import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

import pna
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX
from pna.metrics import (
    SegmentationScores,
    boundary,
    boundary_accuracy,
    boundary_counts,
    confusion_matrix,
    evaluate,
    evaluate_folders,
)


def random_maps(shape, num_classes, seed, ignored=0.1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, shape, generator=generator)
    noise = torch.randint(0, num_classes, shape, generator=generator)
    prediction = torch.where(torch.rand(shape, generator=generator) < 0.6, labels, noise)
    labels[torch.rand(shape, generator=generator) < ignored] = IGNORE_INDEX
    return prediction, labels


def boundary_by_loop(mask, width):
    """Mask minus its erosion, pixel by pixel, straight from the definition."""
    height, length = mask.shape
    region = torch.zeros_like(mask)
    for y in range(height):
        for x in range(length):
            square = [
                (v, u)
                for v in range(y - width, y + width + 1)
                for u in range(x - width, x + width + 1)
            ]
            survives = all(
                0 <= v < height and 0 <= u < length and bool(mask[v, u]) for v, u in square
            )
            region[y, x] = bool(mask[y, x]) and not survives
    return region


def blobs(seed, size=(13, 17), num_classes=3):
    """Coarse random blocks: regions that are larger than a boundary is wide."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, num_classes, (3, 3), generator=generator)
    return cells.repeat_interleave(6, 0).repeat_interleave(6, 1)[: size[0], : size[1]]


class TestConfusion:
    def test_hand_count(self):
        labels = torch.tensor([[0, 0, 1], [1, 2, 255]])
        prediction = torch.tensor([[0, 1, 1], [1, 0, 2]])
        expected = torch.tensor([[1, 1, 0], [0, 2, 0], [1, 0, 0]])
        counted = confusion_matrix(prediction, labels, 3)
        assert counted.dtype == torch.int64
        assert torch.equal(counted, expected)

    def test_accepts_uint8_beyond_its_product(self):
        labels = torch.full((4, 4), 150, dtype=torch.uint8)  # 150 * 171 overflows 8 bits
        assert confusion_matrix(labels, labels, 171)[150, 150] == 16

    def test_predictions_on_ignored_pixels_do_not_matter(self):
        labels = torch.tensor([0, 255])
        assert confusion_matrix(torch.tensor([0, 99]), labels, 2).sum() == 1

    def test_everything_ignored(self):
        labels = torch.full((2, 3), 255)
        assert confusion_matrix(torch.zeros_like(labels), labels, 2).sum() == 0

    @pytest.mark.parametrize(
        ("prediction", "labels", "message"),
        [
            (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), r"same shape.*\(2, 3\).*\(3, 2\)"),
            (torch.zeros(2, 3), torch.zeros(2, 3).long(), "prediction must hold integer classes"),
            (torch.zeros(1).bool(), torch.zeros(1).long(), "prediction must hold .*torch.bool"),
            (np.zeros(1), np.zeros(1, int), "prediction must be a tensor or array .*float64"),
            ([0], np.zeros(1, int), "prediction must be a tensor or array of .*, got list"),
            (torch.tensor([5]), torch.tensor([0]), r"prediction must be in \[0, 3\).*\[5\]"),
            (torch.tensor([0]), torch.tensor([3]), r"labels must be in \[0, 3\).*\[3\]"),
            (torch.tensor([0]), torch.tensor([-1]), r"labels must be in \[0, 3\).*\[-1\]"),
        ],
    )
    def test_errors(self, prediction, labels, message):
        with pytest.raises(PnaError, match=message):
            confusion_matrix(prediction, labels, 3)

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64"])
    def test_arrays_of_any_integer_type(self, dtype):
        labels = np.array([[0, 1], [2, 255]]).astype(dtype).T  # not contiguous
        labels.flags.writeable = False
        prediction = torch.tensor([[0, 2], [1, 0]])
        assert confusion_matrix(prediction, labels, 3).diagonal().tolist() == [1, 1, 1]

    def test_num_classes_leaves_room_for_ignore(self):
        with pytest.raises(ValueError, match="num_classes must be in"):
            confusion_matrix(torch.zeros(1).long(), torch.zeros(1).long(), 256)


class TestIoU:
    @pytest.mark.parametrize("seed", range(3))
    def test_matches_torchmetrics(self, seed):
        num_classes = 6
        scores = SegmentationScores(num_classes)
        per_class = MulticlassJaccardIndex(num_classes, average="none", ignore_index=255)
        macro = MulticlassJaccardIndex(num_classes, average="macro", ignore_index=255)
        for step in range(3):
            # Class 5 never occurs: drawn from five classes.
            prediction, labels = random_maps((2, 19, 23), 5, seed=10 * seed + step)
            scores.update(prediction, labels)
            per_class.update(prediction, labels)
            macro.update(prediction, labels)
        ours = scores.compute()
        assert math.isnan(ours.iou[5])
        assert ours.iou[:5] == pytest.approx(per_class.compute()[:5].tolist(), abs=1e-6)
        assert ours.miou == pytest.approx(float(macro.compute()), abs=1e-6)

    def test_hand_count(self):
        scores = SegmentationScores(3, boundary_width=1)
        scores.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
        found = scores.compute()
        assert found.iou[:2] == (0.5, 0.5)
        assert math.isnan(found.iou[2])
        assert found.miou == 0.5
        assert found.pixel_accuracy == pytest.approx(2 / 3)
        assert (found.num_pixels, found.num_ignored) == (3, 1)

    def test_a_class_that_only_the_prediction_has_is_not_in_the_mean(self):
        """The means are over classes that the labels hold, the same for every prediction."""
        clean, stray = SegmentationScores(3), SegmentationScores(3)
        labels = torch.tensor([[0, 0, 1, 1]])
        clean.update(torch.tensor([[0, 1, 1, 1]]), labels)
        stray.update(torch.tensor([[0, 2, 1, 1]]), labels)
        assert clean.compute().iou[:2] == (1 / 2, 2 / 3)
        assert stray.compute().iou == (1 / 2, 1.0, 0.0)
        assert clean.compute().in_mean == stray.compute().in_mean == (0, 1)
        assert clean.compute().miou == pytest.approx((1 / 2 + 2 / 3) / 2)
        assert stray.compute().miou == 0.75  # 0.5 with the stray class in the mean
        assert stray.compute().boundary_miou == pytest.approx((1 / 2 + 1) / 2)

    def test_classes_outside_the_mean(self):
        scores = SegmentationScores(3, scored=(1, 2))
        scores.update(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]]))
        found = scores.compute()
        assert found.scored == (1, 2)
        assert found.in_mean == (1,)
        assert found.miou == pytest.approx(2 / 3)

    def test_scored_out_of_range(self):
        with pytest.raises(ValueError, match=r"scored must be in \[0, 2\).*\[2\]"):
            SegmentationScores(2, scored=(0, 2))

    def test_nothing_seen_is_nan_and_valid_json(self):
        found = SegmentationScores(2).compute()
        assert math.isnan(found.miou)
        assert math.isnan(found.boundary_miou)
        plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert plain["miou"] is None
        assert plain["iou"] == [None, None]
        assert plain["num_pixels"] == 0

    def test_counts_are_summed_not_averaged(self):
        scores = SegmentationScores(2)
        scores.update(torch.zeros(1, 9).long(), torch.zeros(1, 9).long())
        scores.update(torch.ones(1, 1).long(), torch.zeros(1, 1).long())
        assert scores.compute().iou[0] == pytest.approx(0.9)  # the mean per image would be 0.5


class TestBoundary:
    @pytest.mark.parametrize("width", [1, 2, 3, 7])
    @pytest.mark.parametrize("seed", range(3))
    def test_matches_loop(self, width, seed):
        labels = blobs(seed)
        region = boundary(labels, width)
        for c in range(3):
            mask = labels == c
            assert torch.equal(region & mask, boundary_by_loop(mask, width))

    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)])
    def test_tiny_maps_are_all_boundary(self, size):
        assert boundary(torch.zeros(size, dtype=torch.int64), 3).all()

    def test_square_ring(self):
        labels = torch.zeros(11, 11, dtype=torch.int64)
        labels[2:9, 2:9] = 1
        ring = boundary(labels, 1) & (labels == 1)
        assert ring.sum() == 7 * 7 - 5 * 5

    def test_batch_equals_one_by_one(self):
        labels = torch.stack([blobs(0), blobs(1)])
        both = boundary(labels, 2)
        assert torch.equal(both[0], boundary(labels[0], 2))
        assert torch.equal(both[1], boundary(labels[1], 2))

    def test_width_must_be_positive(self):
        with pytest.raises(ValueError, match="at least 1 pixel wide, got width=0"):
            boundary(torch.zeros(3, 3).long(), 0)


class TestBoundaryIoU:
    @pytest.mark.parametrize("width", [1, 3])
    def test_matches_loop_with_ignored_pixels(self, width):
        prediction, labels = blobs(5), blobs(6)
        labels[4:6, :] = IGNORE_INDEX
        labels[:, 9] = IGNORE_INDEX
        counted = boundary_counts(prediction, labels, 3, width=width)
        for c in range(3):
            valid = labels != IGNORE_INDEX
            truth = boundary_by_loop((labels == c) & valid, width)
            found = boundary_by_loop((prediction == c) & valid, width)
            assert counted.intersection[c] == (truth & found).sum()
            assert counted.union[c] == (truth | found).sum()

    def test_identical_is_one(self):
        scores = SegmentationScores(4, boundary_width=2)
        scores.update(blobs(1), blobs(1))
        found = scores.compute()
        assert found.boundary_miou == 1.0
        assert math.isnan(found.boundary_iou[3])
        assert found.boundary_width == 2

    def test_shifted_by_one(self):
        """A 6x6 square moved by one: the rings of 20 pixels share 10, see the sketch.

        Ring rows are columns 1-6 and 2-7. Top and bottom rows share 5 pixels each; the vertical
        sides (columns 1, 6 and 2, 7) share none.
        """
        labels = torch.zeros(8, 9, dtype=torch.int64)
        labels[1:7, 1:7] = 1
        counted = boundary_counts(labels.roll(1, dims=1), labels, 2, width=1)
        assert counted.intersection[1] == 10
        assert counted.union[1] == 30

    def test_what_is_predicted_on_ignored_pixels_does_not_matter(self):
        labels = blobs(2)
        labels[5:8, 3:12] = IGNORE_INDEX
        prediction = torch.where(labels == IGNORE_INDEX, 1, labels)
        other = torch.where(labels == IGNORE_INDEX, 2, labels)
        for guess in (prediction, other):
            counted = boundary_counts(guess, labels, 3, width=2)
            assert torch.equal(counted.intersection, counted.union)

    def test_inner_errors_hurt_only_plain_iou(self):
        labels = torch.zeros(30, 30, dtype=torch.int64)
        wide = labels.clone()
        wide[:, 15:] = 1
        scores = SegmentationScores(2, boundary_width=1)
        scores.update(wide.roll(1, dims=1), wide)
        found = scores.compute()
        assert found.boundary_iou[1] < found.iou[1]


class TestMerge:
    def test_equals_one_state(self):
        parts = [SegmentationScores(4), SegmentationScores(4)]
        whole = SegmentationScores(4)
        for step in range(4):
            maps = random_maps((11, 12), 4, seed=step)
            parts[step % 2].update(*maps)
            whole.update(*maps)
        parts[0].merge(parts[1])
        assert parts[0].compute() == whole.compute()

    def test_refuses_other_settings(self):
        with pytest.raises(ValueError, match="taken the same way"):
            SegmentationScores(4).merge(SegmentationScores(4, boundary_width=5))

    def test_a_state_can_be_sent_to_another_process(self):
        scores = SegmentationScores(4)
        scores.update(*random_maps((11, 12), 4, seed=0))
        assert pickle.loads(pickle.dumps(scores)).compute() == scores.compute()


def accuracy_by_loop(prediction, labels):
    """The published evaluation's definition, pixel by pixel, disks as OpenCV draws them."""
    height, width = labels.shape
    shares = []
    for step in range(5):
        radius = 1 + int(((height + width) / 300 - 1) / 5 * step)
        right = near = 0
        for y in range(height):
            for x in range(width):
                if labels[y, x] == IGNORE_INDEX:
                    continue
                disk = set()
                for v in range(max(0, y - radius), min(height, y + radius + 1)):
                    half = round(math.sqrt(radius**2 - (v - y) ** 2))
                    disk |= {int(k) for k in labels[v, max(0, x - half) : x + half + 1]}
                if len(disk) > 1:
                    near += 1
                    right += int(prediction[y, x] == labels[y, x])
        if not near:
            return math.nan
        shares.append(right / near)
    return sum(shares) / 5


class TestBoundaryAccuracy:
    @pytest.mark.parametrize("size", [(13, 17), (5, 600), (700, 4), (1, 1)])
    @pytest.mark.parametrize("ignored", [0, 0.02])
    def test_matches_loop(self, size, ignored):
        cells = random_maps((3, 9), 3, seed=1)[0]
        labels = cells.repeat_interleave(240, 0).repeat_interleave(70, 1)[: size[0], : size[1]]
        labels = labels.clone()
        prediction = random_maps(size, 3, seed=2)[0]
        prediction = torch.where(torch.rand(size) < 0.8, labels, prediction)
        labels[torch.rand(size, generator=torch.Generator().manual_seed(3)) < ignored] = 255
        expected = accuracy_by_loop(prediction.numpy(), labels.numpy())
        assert boundary_accuracy(prediction, labels) == pytest.approx(expected, nan_ok=True)

    def test_radii_grow_with_the_image(self):
        """An error six pixels from the edge counts only where the image is large."""
        for size, counts in ((128, False), (1200, True)):
            labels = torch.zeros(size, size, dtype=torch.uint8)
            labels[:, size // 2 :] = 1
            prediction = labels.clone()
            prediction[:, size // 2 + 5] = 0
            assert (boundary_accuracy(prediction, labels) < 1) == counts

    def test_without_a_boundary_there_is_none(self):
        labels = torch.ones(40, 50, dtype=torch.int64)
        assert math.isnan(boundary_accuracy(labels, labels))
        scores = SegmentationScores(2)
        scores.update(labels, labels)
        assert math.isnan(scores.compute().mba)

    def test_of_a_set_is_the_mean_over_images(self):
        """One state, a stack of images, and the mean of two images are one number."""
        maps = [(blobs(seed), blobs(seed + 7)) for seed in (0, 1)]
        single = [boundary_accuracy(*pair) for pair in maps]
        stack = SegmentationScores(3)
        stack.update(torch.stack([p for p, _ in maps]), torch.stack([t for _, t in maps]))
        assert stack.compute().mba == pytest.approx(sum(single) / 2)
        assert 0 < stack.compute().mba < 1


class TestSets:
    """The functions for people who have label maps and nothing else."""

    def test_every_form_of_maps_gives_the_same(self):
        pairs = [random_maps((11, 12), 4, seed=seed) for seed in range(3)]
        found, truth = ([pair[i] for pair in pairs] for i in (0, 1))
        expected = evaluate(found, truth, 4)
        assert evaluate(torch.stack(found), torch.stack(truth), 4) == expected
        assert evaluate(torch.stack(found).numpy(), torch.stack(truth).numpy(), 4) == expected
        assert evaluate((m.numpy() for m in found), iter(truth), 4) == expected
        state = SegmentationScores(4)
        for pair in pairs:
            state.update(*pair)
        assert state.compute() == expected

    def test_options_are_handed_on(self):
        maps = random_maps((11, 12), 4, seed=0)
        found = evaluate(*maps, 4, scored=(1, 3), boundary_width=2)
        assert (found.scored, found.in_mean, found.boundary_width) == ((1, 3), (1, 3), 2)

    @pytest.mark.parametrize(
        ("num_found", "num_true", "message"),
        [
            (1, 2, "expected as many predictions as labels: 1 predictions, more labels"),
            (2, 1, "expected as many predictions as labels: 1 labels, more predictions"),
            (0, 0, "expected at least one label map with a pixel, got none"),
        ],
    )
    def test_numbers_have_to_agree(self, num_found, num_true, message):
        labels = torch.zeros(3, 4, dtype=torch.uint8)
        with pytest.raises(PnaError, match=f"^{message}"):
            evaluate([labels] * num_found, [labels] * num_true, 2)

    @pytest.mark.parametrize("shape", [(4,), (1, 1, 3, 4)])
    def test_other_axes_are_an_error(self, shape):
        labels = torch.zeros(shape, dtype=torch.uint8)
        with pytest.raises(PnaError, match=r"^expected label maps \(H, W\) or \(B, H, W\)"):
            evaluate(labels, labels, 2)

    @pytest.fixture
    def folders(self, tmp_path):
        pairs = [random_maps((11, 12), 4, seed=seed) for seed in range(2)]
        expected = evaluate([found for found, _ in pairs], [true for _, true in pairs], 4)
        for place, maps in zip(("found", "true"), zip(*pairs, strict=True), strict=True):
            (tmp_path / place).mkdir()
            for number, labels in enumerate(maps):
                image = Image.fromarray(labels.numpy().astype(np.uint8))
                image.save(tmp_path / place / f"{number}.png")
        return tmp_path / "found", tmp_path / "true", expected

    def test_folders_are_matched_by_stem(self, folders):
        found, true, expected = folders
        Image.new("L", (3, 3)).save(found / "another.png")  # one that is not asked for
        assert evaluate_folders(found, str(true), 4) == expected

    def test_what_is_wrong_in_a_folder_is_named(self, folders):
        found, true, _ = folders
        with pytest.raises(PnaError, match=r"^.*0.png against .*0.png: labels must be in \[0, 3\)"):
            evaluate_folders(found, true, 3)
        Image.new("L", (3, 3)).save(found / "1.png")
        with pytest.raises(PnaError, match=r"^.*1.png against .*1.png: prediction and labels must"):
            evaluate_folders(found, true, 4)
        (found / "1.png").unlink()
        with pytest.raises(PnaError, match=r"^no prediction for .*1\.png: expected 1\.png in"):
            evaluate_folders(found, true, 4)
        with pytest.raises(PnaError, match=r"^no folder .*gone"):
            evaluate_folders(found, true / "gone", 4)
        for file in true.iterdir():
            file.unlink()
        with pytest.raises(PnaError, match=r"^no label maps in .*true"):
            evaluate_folders(found, true, 4)


def test_import_needs_torch_and_numpy_alone():
    code = "import sys, pna; pna.metrics.evaluate; print([m for m in ('PIL', 'torchvision', "
    code += "'matplotlib', 'rich', 'yaml', 'pna.data') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert pna.metrics.evaluate is evaluate


def test_a_truth_of_0_and_255_is_warned_of():
    truth = np.zeros((4, 6), np.uint8)
    truth[1:3, 2:4] = 255
    with pytest.warns(UserWarning, match=r"^the true label maps hold 1 class and 4 ignored pixels"):
        scores = pna.metrics.evaluate(np.zeros((4, 6), np.uint8), truth, 2)
    assert scores.num_ignored == 4


def test_no_scored_class_is_refused():
    with pytest.raises(PnaError, match="^expected scored classes, at least one, got none"):
        pna.metrics.evaluate(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 2, scored=[])
