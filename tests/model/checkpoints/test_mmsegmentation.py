"""Models of mmsegmentation itself: names, and values of its own code for three heads."""

import re

import pytest
import torch

import pna
import whole_checkpoints
from pna import ModelOptions, PnaError
from pna.labels import generic

from_mmsegmentation = pna.checkpoints.from_mmsegmentation

# What a convolution with norm is called there.
CONV = {"0.": "conv.", "1.": "bn."}
UPERNET = [
    (r"pyramid\.branches\.(\d)\.(\d\.)", lambda m: f"psp_modules.{m[1]}.1.{CONV[m[2]]}"),
    (r"pyramid\.fuse\.(\d\.)", lambda m: f"bottleneck.{CONV[m[1]]}"),
    (r"laterals\.(\d)\.(\d\.)", lambda m: f"lateral_convs.{m[1]}.{CONV[m[2]]}"),
    (r"outputs\.(\d)\.(\d\.)", lambda m: f"fpn_convs.{m[1]}.{CONV[m[2]]}"),
    (r"fuse\.(\d\.)", lambda m: f"fpn_bottleneck.{CONV[m[1]]}"),
    (r"classifier\.1\.", "conv_seg."),
]
FPN = [
    (
        r"scale_heads\.(\d)\.convs\.(\d)\.(\d\.)",
        lambda m: f"scale_heads.{m[1]}.{2 * int(m[2])}.{CONV[m[3]]}",
    ),
    (r"classifier\.1\.", "conv_seg."),
]


def of(case, *, coarse=True):
    """Names and shapes of the encoder and auxiliary head of a case, and its coarse head."""
    state = whole_checkpoints.shapes_of(whole_checkpoints.read_case(case))
    kept = ("backbone.", "auxiliary_head.", "decode_head.0.")[: 2 + coarse]
    return {
        name.replace("decode_head.0.", "decode_head."): x
        for name, x in state.items()
        if name.startswith(kept)
    }


def head_of(preset, table, encoder="resnet50c"):
    """Names and shapes of a coarse head of ours, by a table of names."""
    with torch.device("meta"):
        model = pna.create_model(preset, 21, encoder=encoder, encoder_weights=None)
    named = {}
    for key, tensor in model.coarse.state_dict().items():
        if match := re.match(r"pyramid\.(lateral|output)s\.(\d)\.", key):
            kind = {"lateral": "lateral_convs", "output": "fpn_convs"}[match[1]]
            named[f"neck.{kind}.{match[2]}.conv.{key[match.end() :]}"] = tensor
            continue
        for pattern, replacement in table:
            name, count = re.subn(f"^{pattern}", replacement, key)
            if count:
                named[f"decode_head.{name}"] = tensor
                break
    return named


@pytest.mark.parametrize(
    ("state", "preset", "encoder", "output_stride"),
    [
        (lambda: of("mm_fcn_r50_d32_voc"), "fcn", "resnet50c", 8),
        (
            lambda: of("mm_fcn_r50_d32_voc", coarse=False) | head_of("upernet", UPERNET),
            "upernet",
            "resnet50c",
            32,
        ),
        (
            lambda: of("mm_fcn_r50_d32_voc", coarse=False) | head_of("fpn", FPN),
            "fpn",
            "resnet50c",
            32,
        ),
        (lambda: of("mm_psp_r101_d16_voc"), "psp", "resnet101c", 8),
        (
            lambda: (
                of("mm_psp_swin_tiny_voc", coarse=False)
                | head_of("upernet", UPERNET, "swin_tiny_patch4_window7_224")
            ),
            "upernet",
            "swin_tiny_patch4_window7_224",
            32,
        ),
        (lambda: of("mm_deeplabv3_r50_d16_cocostuff10k"), "deeplabv3", "resnet50c", 8),
        (
            lambda: whole_checkpoints.shapes_of(
                whole_checkpoints.read_case("mmseg_deeplabv3plus_r50_d8")
            ),
            "deeplabv3plus",
            "resnet50c",
            8,
        ),
    ],
)
def test_models_are_recognized_and_filled(state, preset, encoder, output_stride):
    content = {"state_dict": state()}
    assert pna.checkpoints.is_mmsegmentation(content)
    with torch.device("meta"):
        model = from_mmsegmentation(content)
    assert (model.config.preset, model.config.encoder) == (preset, encoder)
    assert model.config.options.output_stride == output_stride
    assert model.config.options.padding == "none"
    assert model.config.options.aux
    assert model.inference_size is None
    assert model.refiner is None


def deviations(name):
    """The largest difference of each tensor of a case, by its largest magnitude."""
    case = whole_checkpoints.read_case(name)
    model = from_mmsegmentation(whole_checkpoints.state_of(case))
    got = whole_checkpoints.tensors_of(model, whole_checkpoints.image_of(case))
    return whole_checkpoints.deviations(case, got)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("mmseg_upernet_r50", 6),
        ("mmseg_upernet_r50_odd", 6),
        ("mmseg_deeplabv3plus_r50_d8", 6),
        ("mmseg_deeplabv3plus_r50_d8_odd", 6),
        ("mmseg_fpn_r50", 10),
    ],
)
def test_features_and_logits_match(name, number):
    """The other heads are those of the authors' branch, whose values are compared there."""
    found = deviations(name)
    assert len(found) == number
    assert max(found.values()) <= 1e-4, found


def test_semantic_fpn_resizes_to_the_levels_own_sizes():
    """There it doubles them, which is the same where 32 divides the image's sides."""
    found = deviations("mmseg_fpn_r50_odd")
    assert max(x for name, x in found.items() if name not in ("coarse", "logits")) <= 1e-4
    assert 1e-3 < found["coarse"] < 0.02
    assert 1e-3 < found["logits"] < 0.02


def test_stated_options_and_refusals():
    state = of("mm_fcn_r50_d32_voc")
    with torch.device("meta"):
        model = from_mmsegmentation(state, options=ModelOptions(output_stride=16))
        assert model.strides == (4, 8, 16, 16)
        with pytest.raises(PnaError, match="has 21 outputs, labels 'generic-3' have 3 classes"):
            from_mmsegmentation(state, labels=generic(3))
        with pytest.raises(PnaError, match=r"1 are unknown \(decode_head.extra\)"):
            from_mmsegmentation(state | {"decode_head.extra": torch.ones(1)})
        named = {"state_dict": state, "meta": {"dataset_meta": {"classes": ["a", "b", "c", "d"]}}}
        with pytest.raises(PnaError, match=r"names 4 classes \(a, b, c, \.\.\.\) and has 21 outp"):
            from_mmsegmentation(named)
        assert from_mmsegmentation(named, labels=generic(21)).num_classes == 21
        one = {
            name: x[:1] if name.startswith("decode_head.conv_seg") else x
            for name, x in state.items()
        }
        with pytest.raises(PnaError, match="has one output, a sigmoid's for two classes"):
            from_mmsegmentation(one)
    case = whole_checkpoints.read_case("mm_fcn_r50_d32_voc")
    refined = whole_checkpoints.shapes_of(case)
    assert not pna.checkpoints.is_mmsegmentation(refined)
    with pytest.raises(PnaError, match="^the checkpoint has several heads.*from_authors"):
        from_mmsegmentation(refined)
