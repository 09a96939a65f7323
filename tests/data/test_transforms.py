import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.tv_tensors import Image, Mask

from pna.data.randomness import seeded
from pna.data.transforms import (
    GRAY,
    Pad,
    RandomCrop,
    RandomScale,
    is_varied,
    resize_image,
    resize_labels,
    train_transform,
)
from pna.labels import IGNORE_INDEX


def scene(height, width, *, num_classes=4):
    """An image whose every pixel tells its label: gray level 40 x label."""
    labels = torch.arange(height)[:, None] // 5 + torch.arange(width) // 7
    labels = (labels % num_classes).to(torch.uint8)
    return Image((labels * 40).expand(3, -1, -1).clone()), Mask(labels)


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    seed=st.integers(0, 2**63),
)
def test_any_image_becomes_a_crop(size, crop, seed):
    with seeded(seed):
        image, labels = train_transform(crop)(*scene(*size))
    assert isinstance(image, Image)
    assert isinstance(labels, Mask)
    assert image.shape == (3, *crop)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert labels.shape == crop
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, IGNORE_INDEX}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**63))
def test_labels_stay_on_their_pixels(seed):
    with seeded(seed):
        transform = train_transform((40, 60), scale=(1.0, 1.0), jitter=False)
        image, labels = transform(*scene(50, 50))
    inside = labels != IGNORE_INDEX
    assert torch.equal((image[0] * 255).round()[inside], labels[inside] * 40.0)
    assert (image[:, ~inside] == GRAY).all()
    assert inside.sum() == 40 * 50


def test_scale_of_the_own_size():
    sizes = []
    for seed in range(200):
        with seeded(seed):
            image, labels = RandomScale((0.5, 2.0))(*scene(30, 50))
        assert image.shape[-2:] == labels.shape
        sizes.append(image.shape[-1] / 50)
    assert 0.5 <= min(sizes) < 0.6
    assert 1.9 < max(sizes) <= 2.0


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((30, 40), (64, 85)),  # the short side decides
        ((20, 200), (26, 256)),  # the long side decides
        ((40, 30), (85, 64)),  # upright images are treated alike
    ],
)
def test_scale_of_a_base_size(size, expected):
    image, _ = RandomScale((0.125, 0.125), base_size=(2048, 512))(*scene(*size))
    assert tuple(image.shape[-2:]) == expected


def test_short_sides_are_chosen_from_the_list():
    seen = set()
    for seed in range(50):
        with seeded(seed):
            image, _ = RandomScale(short_sides=(16, 24, 32))(*scene(40, 20))
        seen.add(tuple(image.shape[-2:]))
    assert seen == {(32, 16), (48, 24), (64, 32)}


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_resized_labels_are_nearest_to_the_pixel_centers(height, width, new_height, new_width):
    labels = Mask(torch.arange(height * width).reshape(height, width).to(torch.uint8))
    resized = resize_labels(labels, (new_height, new_width))
    rows = ((torch.arange(new_height) + 0.5) * height / new_height).long()
    columns = ((torch.arange(new_width) + 0.5) * width / new_width).long()
    same = resized == labels[rows][:, columns]
    assert same.float().mean() > 0.8  # ties at a cell's edge may round either way
    assert set(resized.unique().tolist()) <= set(labels.unique().tolist())


@pytest.mark.parametrize("factor", [0.47, 0.63, 0.81, 1.37, 1.71])
def test_resized_labels_stay_under_the_image(factor):
    """Edges at every column lie, on average, at the same place in the image and the labels.

    At odd factors: at even ones two pixels can be equally near, and either may be taken.
    """
    labels = Mask((torch.arange(120) >= torch.arange(1, 120)[:, None]).to(torch.uint8))
    image = Image((labels * 255).expand(3, -1, -1).clone())
    size = (119, round(120 * factor))
    covered = resize_image(image, size)[0].float().sum(1) / 255  # right of the edge, in pixels
    shift = (covered - resize_labels(labels, size).sum(1)).mean()
    assert abs(float(shift)) < 0.05  # plain "nearest" shifts them by 0.47 to 0.5


def test_the_share_of_a_class_is_bounded():
    labels = torch.zeros(10, 10, dtype=torch.uint8)
    labels[:, :3] = 1  # 70 % and 30 %
    assert is_varied(labels)
    labels[:, 1:3] = 0  # 90 % and 10 %
    assert not is_varied(labels)


def test_ignored_pixels_do_not_count_in_the_share():
    labels = torch.full((10, 10), IGNORE_INDEX, dtype=torch.uint8)
    assert not is_varied(labels)
    labels[0, :7] = 0
    labels[0, 7:] = 1
    assert is_varied(labels)  # 7 and 3 of 10 labeled pixels


def test_crops_avoid_a_single_class():
    """A corner of variety in a uniform image is found far more often than by chance."""
    labels = torch.zeros(100, 100, dtype=torch.uint8)
    labels[60:, 60:] = (torch.arange(40) // 5 % 4).to(torch.uint8)
    image = Image(labels.expand(3, -1, -1).clone())
    hits = 0
    for seed in range(100):
        with seeded(seed):
            _, crop = RandomCrop((40, 40))(image, Mask(labels))
        hits += is_varied(crop)
    assert hits > 60  # one draw in ten or so would do by itself


def test_a_uniform_image_is_cropped_all_the_same():
    image, labels = Image(torch.zeros(3, 9, 9).byte()), Mask(torch.zeros(9, 9).byte())
    cropped, _ = RandomCrop((4, 5))(image, labels)
    assert cropped.shape == (3, 4, 5)


def test_every_window_is_reached():
    image = Image(torch.arange(25).byte().reshape(5, 5).expand(3, -1, -1).clone())
    corners = set()
    for seed in range(300):
        with seeded(seed):
            cropped, _ = RandomCrop((3, 3))(image, Mask(image[0]))
        corners.add(int(cropped[0, 0, 0]))
    assert corners == {5 * top + left for top in range(3) for left in range(3)}


def test_padding_goes_right_and_bottom():
    image, labels = Image(torch.zeros(3, 2, 3)), Mask(torch.zeros(2, 3, dtype=torch.uint8))
    padded, padded_labels = Pad((4, 5))(image, labels)
    assert padded.shape == (3, 4, 5)
    assert not padded[:, :2, :3].any()
    assert padded[:, 2:].eq(GRAY).all()
    assert padded[:, :, 3:].eq(GRAY).all()
    assert padded_labels[2:].eq(IGNORE_INDEX).all()
    assert padded_labels[:, 3:].eq(IGNORE_INDEX).all()


def test_flip_and_jitter_follow_their_switches():
    image, labels = scene(20, 30)
    plain = train_transform((20, 30), scale=(1, 1), flip=0, jitter=False)
    flipped = train_transform((20, 30), scale=(1, 1), flip=1, jitter=False)
    jittered = train_transform((20, 30), scale=(1, 1), flip=0, jitter=True)
    assert torch.equal(flipped(image, labels)[1], plain(image, labels)[1].flip(-1))
    assert torch.equal(flipped(image, labels)[0], plain(image, labels)[0].flip(-1))
    changed = 0
    for seed in range(20):
        with seeded(seed):
            new_image, new_labels = jittered(image, labels)
        assert torch.equal(new_labels, labels)
        changed += not torch.equal(new_image, plain(image, labels)[0])
    assert 12 <= changed <= 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 5)}, "a height and a width"),
        ({"crop": (5,)}, "a height and a width"),
        ({"scale": (0.0, 1.0)}, "range of positive factors"),
        ({"scale": (2.0, 1.0)}, "range of positive factors"),
        ({"base_size": (0, 5)}, "base_size is two lengths"),
        ({"base_size": (5, 5), "short_sides": (5,)}, "give one"),
        ({"short_sides": ()}, "at least one"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        train_transform(**{"crop": (8, 8), **options})


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (4, 2)])
def test_bytes_are_resized_as_floats_are(size):
    image = Image(torch.randint(256, (3, 5, 4), dtype=torch.uint8))
    resized = resize_image(image, size)
    assert resized.dtype == torch.uint8
    precise = resize_image(Image(image.float()), size)
    torch.testing.assert_close(resized.float(), precise, atol=1.0, rtol=0)
