"""Whole checkpoints of the authors: the values of their code, and what is refused."""

import pytest
import torch

import pna
import small_checkpoint
import whole_checkpoints
from pna import ModelOptions, PnaError
from pna.labels import LabelSpace, generic
from pna.model.checkpoints.published import DEEPGLOBE_7
from pna.model.config import InferenceSize

from_authors = pna.checkpoints.from_authors

# The crop of training, which fixes the windows of the pooled branch, is not the published one.
STATED = {
    "d2_deeplabv3_r52_os16_cityscapes_small": {"options": ModelOptions(pool_window=(9, 11))},
}
SLOW = set(whole_checkpoints.CASES) - set(whole_checkpoints.WITH_THE_TESTS)


def shapes(name):
    return whole_checkpoints.shapes_of(whole_checkpoints.read_case(name))


def on_meta(state, **arguments):
    """The model of a checkpoint, without the arithmetic."""
    with torch.device("meta"):
        return from_authors(state, **arguments)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in whole_checkpoints.CASES],
)
def test_features_and_every_stage_match(name):
    case = whole_checkpoints.read_case(name)
    model = from_authors(whole_checkpoints.state_of(case), **STATED.get(name, {}))
    got = whole_checkpoints.tensors_of(model, whole_checkpoints.image_of(case))
    found = whole_checkpoints.deviations(case, got)
    assert len(found) in (10, 14)
    assert max(found.values()) <= 1e-4, found


MM_OS16 = {"output_stride": 16, "padding": "none", "aux": True}
D2_FPN = {"output_stride": 32, "multi_grid": (1, 2, 4), "padding": "mean", "coarse_norm": "group"}
D2_ASPP = {
    "output_stride": 16,
    "multi_grid": (1, 2, 4),
    "padding": "none",
    "rates": (6, 12, 18),
    "fuse_kernel": 1,
    "pool_norm": False,
    "pool_window": (32, 64),
}


@pytest.mark.parametrize(
    ("name", "encoder", "options", "labels", "upsample", "window"),
    [
        (
            "mm_fcn_r50_d32_voc",
            "resnet50c",
            MM_OS16 | {"output_stride": 32},
            "voc2012",
            "nearest",
            9,
        ),
        ("mm_psp_r101_d16_voc", "resnet101c", MM_OS16, "voc2012", "nearest", 9),
        (
            "mm_psp_swin_tiny_voc",
            "swin_tiny_patch4_window7_224",
            {"output_stride": 32, "padding": "none", "dense_swin": True},
            "voc2012",
            "nearest",
            9,
        ),
        (
            "mm_deeplabv3_r50_d16_cocostuff10k",
            "resnet50c",
            MM_OS16 | {"rates": (12, 24, 36), "pool_window": None, "pool_norm": None},
            "cocostuff10k",
            "nearest",
            9,
        ),
        ("d2_fpn_r52_cityscapes", "resnet50s", D2_FPN, "cityscapes", "nearest", 7),
        ("d2_fpn_r52_trans10k", "resnet50s", D2_FPN, "trans10k", "bilinear", 7),
        ("d2_fpn_r52_deepglobe", "resnet50s", D2_FPN, "deepglobe-7", "nearest", 7),
        ("d2_deeplabv3_r52_os16_cityscapes", "resnet50s", D2_ASPP, "cityscapes", "nearest", 9),
    ],
)
def test_the_parts_and_options_that_are_found(name, encoder, options, labels, upsample, window):
    model = on_meta(shapes(name))
    assert model.config.encoder == encoder
    assert {key: getattr(model.config.options, key) for key in options} == options
    assert model.labels.name == labels
    assert model.config.pna.upsample == upsample
    assert set(model.config.pna.window) == {window}
    assert set(model.config.pna.embedding_bias) == {name.startswith("mm")}
    short = 1024 if labels in ("cityscapes", "deepglobe-7") else 512
    expected = InferenceSize(short, 2048, antialias=name.startswith("d2"))
    assert model.inference_size == model.config.options.inference_size == expected


def test_deepglobe_has_an_output_for_unknown_land():
    assert DEEPGLOBE_7.classes[0] == "unknown"
    assert DEEPGLOBE_7.scored == (1, 2, 3, 4, 5, 6)


class TestStatedOptions:
    def test_other_data(self):
        labels = LabelSpace("own", tuple("abcdefg"), generic(7).colors)
        model = on_meta(
            shapes("d2_fpn_r52_deepglobe"),
            labels=labels,
            upsample="bilinear",
            options=ModelOptions(multi_grid=(1, 1, 1)),
        )
        assert model.labels == labels
        assert model.config.pna.upsample == "bilinear"
        assert model.inference_size is None  # nothing is known of the test on these data
        assert model.encoder.body.layer4[2].conv2.dilation == (1, 1)

    def test_the_authors_data_by_name(self):
        model = on_meta(shapes("d2_fpn_r52_deepglobe"), dataset="deepglobe", resize_images=False)
        assert model.labels == DEEPGLOBE_7
        assert model.inference_size is None

    def test_classes_in_the_checkpoint(self):
        """A training on other data, with as many classes, names its own."""
        state = shapes("mm_fcn_r50_d32_voc")
        own = tuple(f"part {i}" for i in range(21))
        container = {"state_dict": state, "meta": {"CLASSES": own, "PALETTE": None}}
        assert on_meta(container).labels.classes == own
        voc = tuple(name.title() for name in pna.LabelSpace.from_dict(VOC_DICT).classes)
        container = {"state_dict": state, "meta": {"dataset_meta": {"classes": voc}}}
        assert on_meta(container).labels.name == "voc2012"


VOC_DICT = pna.load("voc-lite").labels.to_dict()


@pytest.mark.parametrize(
    ("name", "change", "arguments", "message"),
    [
        ("mm", lambda s: {}, {}, "^expected tensors by name, got 0 entries"),
        (
            "mm",
            lambda s: {"epoch": 3},
            {},
            "^expected tensors by name, got 1 entries such as ep",
        ),
        ("mm", lambda s: torch.nn.Linear(1, 1), {}, "^expected tensors by name, got a network"),
        ("mm", lambda s: {"net.weight": torch.ones(1)}, {}, "^expected parameters under backbone"),
        (
            "mm",
            lambda s: {**s, **{f"ema.{k}": x for k, x in s.items()}},
            {},
            "^the checkpoint holds several networks, whose names begin with '', 'ema.': pass",
        ),
        (
            "mm",
            lambda s: {k: x for k, x in s.items() if "decode_head.1" not in k},
            {},
            "^expected a refinement under decode_head.1.*got auxiliary_head, backbone, decode_head",
        ),
        (
            "mm",
            lambda s: {k: x for k, x in s.items() if "stem" not in k},
            {},
            "^expected backbone.stem.0.weight",
        ),
        (
            "d2",
            lambda s: {k: x for k, x in s.items() if "stem.conv3" not in k},
            {},
            "^expected backbone.bottom_up.stem.conv3.weight",
        ),
        (
            "mm",
            lambda s: {k: x for k, x in s.items() if "layer3.5" not in k},
            {},
            r"^expected a ResNet of 50, 101, 152 layers.*stages of \(3, 4, 5, 3\) blocks",
        ),
        (
            "mm",
            lambda s: {k: x for k, x in s.items() if "decode_head.0" not in k},
            {},
            r"^expected a head of FCN, PSPNet, DeepLabV3, DeepLabV3\+, UPerNet or semantic FPN",
        ),
        (
            "d2",
            lambda s: {k: x for k, x in s.items() if "coarse_sem" not in k},
            {},
            "^expected a coarse head of semantic FPN or DeepLabV3",
        ),
        (
            "mm",
            lambda s: {k: x for k, x in s.items() if "rpb" not in k},
            {},
            "it lacks decode_head.1.stages.pna0.blocks.0.attn.rpb",
        ),
        (
            "mm",
            lambda s: {k: x for k, x in s.items() if k != "backbone.layer4.2.conv3.weight"},
            {},
            r"1 are missing \(backbone.layer4.2.conv3.weight\)",
        ),
        (
            "d2",
            lambda s: {**s, "backbone.a.b": s["backbone.fpn_lateral2.bias"], "sem_seg_head.c": 0},
            {},
            r"1 are unknown \(backbone.a.b\)",
        ),
        (
            "d2",
            lambda s: {**s, "backbone.fpn_lateral2.bias": torch.empty(3, device="meta")},
            {},
            r"1 differ in shape \(backbone.fpn_lateral2.bias: expected \(256,\), got \(3,\)\)",
        ),
        ("mm", dict, {"labels": generic(5)}, "has 21 outputs, labels 'generic-5' have 5"),
        ("mm", dict, {"dataset": "cocostuff10k"}, "^expected 171 outputs, as trained on coco"),
        ("mm", dict, {"dataset": "cityscapes"}, "mmsegmentation branch, voc2012, cocostuff10k"),
        ("mm", dict, {"options": ModelOptions(rates=(1, 2))}, "rates for 0 dilated branches"),
        (
            "aspp",
            dict,
            {"labels": generic(19)},
            r"^the pooled branch .* pass pool_window, .* such as \(32, 64\)",
        ),
        ("aspp", dict, {"options": ModelOptions(rates=(6, 12))}, "rates for 3 dilated branches"),
    ],
)
def test_refusals(name, change, arguments, message):
    names = {
        "mm": "mm_fcn_r50_d32_voc",
        "d2": "d2_fpn_r52_deepglobe",
        "aspp": "d2_deeplabv3_r52_os16_cityscapes",
    }
    with pytest.raises(PnaError, match=message):
        on_meta(change(shapes(names[name])), **arguments)


def test_prefixes_save_and_load(tmp_path):
    """Lightning's container, a prefix, a metric beside the network; then a folder and back."""
    model = small_checkpoint.small_model()
    state = {f"model.{k}": x for k, x in small_checkpoint.state_of(model).items()}
    state["val_iou.confusion"] = torch.zeros(3, 3)
    read = from_authors({"state_dict": state, "epoch": 7}, labels=generic(3))
    read.save_pretrained(tmp_path)
    again = pna.load(tmp_path)
    assert again.config == read.config
    assert again.divisor == 1
    image = torch.rand(1, 3, 49, 62)
    with torch.inference_mode():
        expected = model(image, stages=True)
        for got in (read, again):
            output = got(image, stages=True)
            torch.testing.assert_close(output.logits, expected.logits)
            torch.testing.assert_close(output.coarse, expected.coarse)
    # Levels are rounded up: nothing is padded.
    assert output.stages[-1].shape[-2:] == (13, 16)
