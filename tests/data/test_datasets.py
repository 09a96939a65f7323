import pickle
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from pna.data import (
    DATASETS,
    VOC2012,
    CamVid,
    ConcreteDamage,
    DataError,
    DataWarning,
    Folder,
    create_dataset,
)
from pna.data.folder import is_validation
from pna.data.synthetic import (
    write_camvid,
    write_cityscapes,
    write_cocostuff10k,
    write_damage,
    write_deepglobe,
    write_folder,
    write_trans10k,
    write_voc,
)
from pna.labels import (
    CAMVID,
    CITYSCAPES,
    COCO_STUFF,
    DAMAGE,
    DEEPGLOBE,
    IGNORE_INDEX,
    TRANS10K,
    VOC,
    generic,
)

SIZE = (24, 32)
THREE = generic(3)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A folder with every data set under its name."""
    roots = tmp_path_factory.mktemp("roots")
    write_voc(roots / "voc2012", size=SIZE)
    write_cityscapes(roots / "cityscapes", size=SIZE)
    write_cocostuff10k(roots / "cocostuff10k", size=SIZE)
    write_deepglobe(roots / "deepglobe", size=SIZE)
    write_trans10k(roots / "trans10k", size=SIZE)
    write_camvid(roots / "camvid", size=SIZE)
    write_damage(roots / "damage", size=SIZE)
    write_folder(roots / "folder", THREE, size=SIZE)
    return roots


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc", size=SIZE)


@pytest.fixture
def camvid(tmp_path):
    return write_camvid(tmp_path / "camvid", size=SIZE)


@pytest.fixture
def damage(tmp_path):
    return write_damage(tmp_path / "damage", size=SIZE)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder", THREE, size=SIZE)


def names(dataset):
    return [pair.name for pair in dataset.pairs]


@pytest.mark.parametrize(
    ("name", "split", "space", "num_pairs"),
    [
        ("voc2012", "train", VOC, 4),
        ("voc2012", "val", VOC, 2),
        ("voc2012", "trainaug", VOC, 6),
        ("camvid", "train", CAMVID, 4),
        ("camvid", "val", CAMVID, 2),
        ("damage", "train", DAMAGE, 6),
        ("damage", "test", DAMAGE, 2),
        ("cityscapes", "train", CITYSCAPES, 4),
        ("cityscapes", "val", CITYSCAPES, 2),
        ("cityscapes", "test", CITYSCAPES, 2),
        ("cocostuff10k", "train", COCO_STUFF, 4),
        ("cocostuff10k", "test", COCO_STUFF, 2),
        ("deepglobe", "train", DEEPGLOBE, 454),
        ("deepglobe", "val", DEEPGLOBE, 207),
        ("deepglobe", "test", DEEPGLOBE, 142),
        ("trans10k", "train", TRANS10K, 4),
        ("trans10k", "val", TRANS10K, 3),
        ("trans10k", "test-easy", TRANS10K, 2),
        ("trans10k", "test-hard", TRANS10K, 1),
        ("folder", None, THREE, 6),
    ],
)
def test_every_dataset_reads_its_layout(roots, name, split, space, num_pairs):
    labels = THREE if name == "folder" else None
    dataset = create_dataset(name, roots / name, split, labels=labels)
    assert len(dataset) == num_pairs
    assert dataset.labels == space
    for index, pair in enumerate(dataset.pairs[:6]):
        sample = dataset[index]
        assert sample.image.shape == (3, *SIZE)
        assert sample.image.dtype == torch.float32
        assert 0 <= sample.image.min() < sample.image.max() <= 1
        assert sample.labels.shape == SIZE
        assert sample.labels.dtype == torch.int64
        assert set(sample.labels.unique().tolist()) <= {*range(space.num_classes), IGNORE_INDEX}
        assert sample.name == pair.name
        assert pair.image.name.startswith(pair.name)
        assert pair.mask.name.startswith(pair.name)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "folder"])
def test_every_dataset_finds_what_is_missing(roots, tmp_path, name):
    split = DATASETS[name].splits[0]
    shutil.copytree(roots / name, tmp_path / name)
    pairs = create_dataset(name, tmp_path / name, split).pairs
    pairs[1].mask.unlink()
    with pytest.raises(DataError, match=f"no mask for '{pairs[1].name}': images are in"):
        create_dataset(name, tmp_path / name, split)
    with pytest.raises(DataError, match=r"elsewhere"):
        create_dataset(name, tmp_path / "elsewhere", split)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "folder"])
def test_every_dataset_names_a_mask_that_cannot_be_read_or_does_not_fit(roots, tmp_path, name):
    split = DATASETS[name].splits[0]
    shutil.copytree(roots / name, tmp_path / name)
    dataset = create_dataset(name, tmp_path / name, split)
    whole = dataset.pairs[0].mask.read_bytes()
    dataset.pairs[0].mask.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"cannot read the mask .*{dataset.pairs[0].mask.name}"):
        dataset[0]
    Image.new("RGB", (32, 23)).save(dataset.pairs[1].image)
    with pytest.raises(DataError, match=f"sizes differ .*{dataset.pairs[1].image.name} has"):
        dataset[1]


@pytest.mark.parametrize("name", DATASETS)
def test_published_counts_are_of_splits(name):
    assert {*DATASETS[name].counts} <= {*DATASETS[name].splits}


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_any_of_its_roots(voc, below):
    assert len(VOC2012(voc / below, "val")) == 2


def test_voc_not_found_names_the_places(tmp_path):
    with pytest.raises(DataError, match=r"looked for ImageSets/Segmentation in .*VOCdevkit"):
        VOC2012(tmp_path)


def test_voc_trainaug_reads_the_augmented_masks(voc):
    assert {pair.mask.parent.name for pair in VOC2012(voc, "train").pairs} == {"SegmentationClass"}
    augmented = VOC2012(voc, "trainaug")
    assert {pair.mask.parent.name for pair in augmented.pairs} == {"SegmentationClassAug"}
    assert set(names(VOC2012(voc, "train"))) < set(names(augmented))


def test_voc_without_its_own_masks_reads_the_augmented_ones(voc):
    before = VOC2012(voc, "val")[0].labels
    for mask in (voc / "VOCdevkit/VOC2012/SegmentationClass").iterdir():
        mask.unlink()
    (voc / "VOCdevkit/VOC2012/SegmentationClass").rmdir()
    assert torch.equal(VOC2012(voc, "val")[0].labels, before)


def test_voc_without_a_list_names_it(voc):
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read the split list .*trainaug\.txt"):
        VOC2012(voc, "trainaug")


def test_voc_without_a_listed_mask_names_it(voc):
    (voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000001.png").unlink()
    with pytest.raises(DataError, match="no mask for '2007_000001'"):
        VOC2012(voc, "train")


def test_camvid_ignores_unlabeled_pixels(camvid):
    dataset = CamVid(camvid, "train")
    with Image.open(dataset.pairs[0].mask) as mask:
        stored = np.array(mask)
    labels = dataset[0].labels.numpy()
    assert (stored == 11).any()
    np.testing.assert_array_equal(labels == IGNORE_INDEX, stored == 11)
    np.testing.assert_array_equal(labels[stored != 11], stored[stored != 11])


def test_every_fourth_damage_image_is_for_testing(damage):
    stems = sorted(file.stem for file in (damage / "images").iterdir())
    assert names(ConcreteDamage(damage, "test")) == stems[::4]
    both = names(ConcreteDamage(damage, "test")) + names(ConcreteDamage(damage, "train"))
    assert sorted(both) == stems


@pytest.mark.parametrize("cls", DATASETS.values())
def test_an_unknown_split_lists_the_known_ones(tmp_path, cls):
    options = {"labels": THREE} if cls is Folder else {}
    with pytest.raises(DataError, match=f"no split 'dev': expected one of {cls.splits[0]}"):
        cls(tmp_path, "dev", **options)


def test_sizes_that_differ_name_both_files(folder):
    Image.new("L", (31, 24)).save(folder / "masks" / "10002.png")
    message = r"image .*images.10002\.png has \(24, 32\).*mask .*masks.10002\.png has \(24, 31\)"
    with pytest.raises(DataError, match=message):
        Folder(folder, labels=THREE)[2]


def test_labels_of_no_class_name_the_mask(folder):
    Image.new("L", (32, 24), 3).save(folder / "masks" / "10000.png")
    with pytest.raises(DataError, match=r"10000\.png has labels \[3\]: allowed are 0\.\.2"):
        Folder(folder, labels=THREE)[0]


def test_folder_masks_may_be_colors(tmp_path):
    index = Folder(write_folder(tmp_path / "i", THREE, size=SIZE), labels=THREE)
    root = write_folder(tmp_path / "c", THREE, size=SIZE, masks="color")
    color = Folder(root, labels=THREE, masks="color")
    for i in range(len(index)):
        assert torch.equal(index[i].labels, color[i].labels)


def test_folder_split_by_list(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("10003\n10001\n")
    dataset = Folder(folder, labels=THREE, split_list=tmp_path / "mine.txt")
    assert names(dataset) == ["10003", "10001"]


def test_folder_split_by_ratio_is_a_partition(folder):
    train = Folder(folder, "train", labels=THREE, ratio=0.5)
    val = Folder(folder, "val", labels=THREE, ratio=0.5)
    assert sorted(names(train) + names(val)) == names(Folder(folder, labels=THREE))


def test_more_images_move_none_between_the_parts(tmp_path):
    few = write_folder(tmp_path / "few", THREE, size=SIZE, num_images=6)
    many = write_folder(tmp_path / "many", THREE, size=SIZE, num_images=20)
    for split in ("train", "val"):
        kept = set(names(Folder(few, split, labels=THREE, ratio=0.5)))
        assert kept < set(names(Folder(many, split, labels=THREE, ratio=0.5)))


def test_the_ratio_is_hit_on_average_and_only_grows():
    stems = [f"image {i}" for i in range(4000)]
    shares = [{stem for stem in stems if is_validation(stem, ratio)} for ratio in (0, 0.2, 0.5, 1)]
    assert [len(share) / 4000 for share in shares] == pytest.approx([0, 0.2, 0.5, 1], abs=0.03)
    assert shares[1] < shares[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val", "ratio": 0.0}, "split 'val' of .* is empty"),
        ({"split": "val", "ratio": 1.5}, "ratio is the share .* 0..1, got 1.5"),
        ({"split": "val", "split_list": "a.txt"}, "split .* both choose the pairs"),
        ({"split": "test"}, "Folder has no split 'test': expected one of train, val"),
        ({"masks": "rgb"}, "masks must be index or color or polygons"),
        ({"split_list": "gone.txt"}, "cannot read the split list gone.txt"),
        ({"ignore": (0, 0, 0)}, "ignore is a whole number for masks of indices, got"),
        ({"ignore": 0, "masks": "color"}, "ignore for masks of colors: color 0 is not three"),
        ({"ignore": (128, 0, 0), "masks": "color"}, "ignore: color .* is that of class 'class_1'"),
    ],
)
def test_folder_options_that_make_no_sense(folder, options, message):
    with pytest.raises(DataError, match=f"^{message}"):
        Folder(folder, labels=THREE, **options)


@pytest.mark.parametrize("ignore", [2, np.uint8(2)])
def test_a_folder_may_ignore_a_value(folder, ignore):
    plain = Folder(folder, labels=THREE)
    for sample, other in zip(Folder(folder, labels=THREE, ignore=ignore), plain, strict=True):
        assert torch.equal(sample.labels, other.labels.where(other.labels != 2, IGNORE_INDEX))


def test_an_ignored_value_need_not_be_a_class_nor_fit_into_a_byte(folder):
    mask = np.zeros((24, 32), np.uint16)
    mask[:5] = 1000
    Image.fromarray(mask).save(folder / "masks" / "10000.png")
    with pytest.raises(DataError, match=r"^mask .* has labels \[1000\]: .* give it as ignore"):
        Folder(folder, labels=THREE)[0]
    labels = create_dataset("folder", folder, labels=THREE, ignore=1000)[0].labels
    assert labels.unique().tolist() == [0, IGNORE_INDEX]
    assert (labels == IGNORE_INDEX).sum() == 5 * 32


@pytest.mark.parametrize("ignore", [(9, 9, 9), "#090909", np.array([9, 9, 9])])
def test_a_folder_may_ignore_a_color(tmp_path, ignore):
    root = write_folder(tmp_path, THREE, size=SIZE, masks="color")
    colors = THREE.decode(np.zeros(SIZE, int))
    colors[:5] = (9, 9, 9)
    Image.fromarray(colors).save(root / "masks" / "10000.png")
    with pytest.raises(DataError, match=r"^mask .*10000\.png: unknown colors: \(9, 9, 9\) at"):
        Folder(root, labels=THREE, masks="color")[0]
    labels = Folder(root, labels=THREE, masks="color", ignore=ignore)[0].labels
    assert labels.unique().tolist() == [0, IGNORE_INDEX]


def test_masks_with_loss_are_warned_of(folder):
    mask = folder / "masks" / "10003.png"
    with Image.open(mask) as image:
        image.convert("L").save(mask.with_suffix(".jpg"))
    mask.unlink()
    with pytest.warns(DataWarning, match=r"^1 masks are JPEG files, such as .*10003\.jpg: "):
        Folder(folder, labels=THREE)


def test_a_subset_leaves_the_whole_as_it_is(folder):
    whole = Folder(folder, labels=THREE)
    part = whole.subset([4, 1])
    assert names(part) == ["10004", "10001"]
    assert names(whole) == [f"1000{i}" for i in range(6)]
    assert torch.equal(part[0].image, whole[4].image)
    with pytest.raises(IndexError):
        whole.subset([6])


def test_a_data_set_can_be_walked_through(folder):
    dataset = Folder(folder, labels=THREE)
    assert [sample.name for sample in dataset] == names(dataset)
    assert dataset[-1].name == "10005"


def test_the_split_of_a_stem_does_not_depend_on_the_composition_of_accents():
    stems = [f"café {i}" for i in range(40)]
    for stem in stems:
        decomposed = unicodedata.normalize("NFD", stem)
        assert decomposed != stem
        assert is_validation(decomposed, 0.5) == is_validation(stem, 0.5)


def test_an_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match="no data set 'voc': expected one of voc2012, cityscapes, "):
        create_dataset("voc", tmp_path)


def test_options_of_the_folder_are_an_error_elsewhere(tmp_path):
    with pytest.raises(DataError, match="^masks, ratio: options of the data set 'folder' alone"):
        create_dataset("camvid", tmp_path, ratio=0.3, masks="color")


def test_a_folder_needs_labels(folder):
    with pytest.raises(DataError, match="needs labels"):
        create_dataset("folder", folder)


def test_create_dataset_hands_every_option_on(tmp_path):
    root = write_folder(tmp_path / "c", THREE, size=SIZE, masks="color")
    options = {"labels": THREE, "ratio": 0.5, "masks": "color"}
    dataset = create_dataset("folder", root, "val", **options)
    assert names(dataset) == names(Folder(root, "val", **options))
    assert torch.equal(dataset[0].labels, Folder(root, "val", **options)[0].labels)


def test_a_dataset_can_be_sent_to_another_process(camvid):
    dataset = pickle.loads(pickle.dumps(CamVid(camvid)))
    assert torch.equal(dataset[1].image, CamVid(camvid)[1].image)
