import json
import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from pna.labels import IGNORE_INDEX
from pna.metrics import SegmentationScores, boundary, boundary_counts, confusion_matrix


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
            (torch.tensor([5]), torch.tensor([0]), r"prediction must be in \[0, 3\).*\[5\]"),
            (torch.tensor([0]), torch.tensor([3]), r"labels must be in \[0, 3\).*\[3\]"),
            (torch.tensor([0]), torch.tensor([-1]), r"labels must be in \[0, 3\).*\[-1\]"),
        ],
    )
    def test_errors(self, prediction, labels, message):
        with pytest.raises(ValueError, match=message):
            confusion_matrix(prediction, labels, 3)

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

    def test_class_that_is_only_predicted_counts_as_zero(self):
        scores = SegmentationScores(2)
        scores.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
        assert scores.compute().iou == (0.5, 0.0)
        assert scores.compute().miou == 0.25

    def test_classes_outside_the_mean(self):
        scores = SegmentationScores(3, scored=(1, 2))
        scores.update(torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]]))
        found = scores.compute()
        assert found.scored == (1, 2)
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
        assert scores.compute().iou[0] == pytest.approx(0.9)  # the mean per picture would be 0.5


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
