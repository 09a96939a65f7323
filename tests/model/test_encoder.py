from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import nn

from pna.errors import PnaError, WeightsError
from pna.model.encoder import TimmEncoder, create_encoder

RESNET_50 = (256, 512, 1024, 2048)
SWIN = "swin_tiny_patch4_window7_224"
# name, arguments, channels, strides
ENCODERS: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = [
    ("resnet18", {}, (64, 128, 256, 512), (4, 8, 16, 32)),
    ("resnet50c", {}, RESNET_50, (4, 8, 16, 32)),
    ("resnet50c", {"output_stride": 16}, RESNET_50, (4, 8, 16, 16)),
    ("resnet50c", {"output_stride": 8}, RESNET_50, (4, 8, 8, 8)),
    ("resnet50c", {"output_stride": 16, "multi_grid": (1, 2, 4)}, RESNET_50, (4, 8, 16, 16)),
    ("resnet101s", {}, RESNET_50, (4, 8, 16, 32)),
    ("tf_efficientnet_lite0", {}, (24, 40, 112, 320), (4, 8, 16, 32)),
    ("tf_efficientnet_lite0", {"output_stride": 16}, (24, 40, 112, 320), (4, 8, 16, 16)),
    ("mobilenetv3_small_050", {}, (8, 16, 24, 288), (4, 8, 16, 32)),
    ("convnext_atto", {"drop_path": 0.1}, (40, 80, 160, 320), (4, 8, 16, 32)),
    ("convnext_atto", {"output_stride": 8}, (40, 80, 160, 320), (4, 8, 8, 8)),
    (SWIN, {"drop_path": 0.3}, (96, 192, 384, 768), (4, 8, 16, 32)),
    ("swin_base_patch4_window7_224", {}, (128, 256, 512, 1024), (4, 8, 16, 32)),
    ("swinv2_tiny_window8_256", {}, (96, 192, 384, 768), (4, 8, 16, 32)),
    ("pvt_v2_b0", {}, (32, 64, 160, 256), (4, 8, 16, 32)),
    ("hrnet_w18_small", {}, (128, 256, 512, 1024), (4, 8, 16, 32)),
    ("mambaout_femto", {}, (48, 96, 192, 288), (4, 8, 16, 32)),
    ("vgg11", {}, (256, 512, 512, 512), (4, 8, 16, 32)),
    ("vit_tiny_patch16_224", {}, (192, 192, 192), (16, 16, 16)),
    ("vit_small_patch14_dinov2", {}, (384, 384, 384), (14, 14, 14)),
    ("csatv2", {}, (32, 72, 168, 386), (8, 16, 32, 64)),
]


@pytest.mark.parametrize(("name", "arguments", "channels", "strides"), ENCODERS)
def test_features_are_what_the_encoder_says(
    name: str, arguments: dict[str, Any], channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    with torch.device("meta"):  # shapes without the arithmetic
        encoder = create_encoder(name, weights=None, **arguments)
    assert encoder.name == name
    assert encoder.channels == channels
    assert encoder.strides == strides
    assert encoder.divisor == max(strides)
    assert encoder.training
    for rows, columns in [(1, 1), (1, 4), (5, 3)]:
        height, width = rows * encoder.divisor, columns * encoder.divisor
        features = encoder(torch.empty(2, 3, height, width, device="meta"))
        assert [tuple(x.shape) for x in features] == [
            (2, c, height // s, width // s) for c, s in zip(channels, strides, strict=True)
        ]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_gradients_reach_the_first_layer(name: str) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(name, weights=None)
    features = encoder(torch.randn(2, 3, 2 * encoder.divisor, 3 * encoder.divisor))
    torch.autograd.backward([x.square().mean() for x in features])
    first = next(p for p in encoder.parameters() if p.dim() == 4)
    assert first.grad is not None
    assert first.grad.abs().max() > 0


def test_a_free_swin_computes_what_the_fixed_one_does_at_its_own_size() -> None:
    torch.manual_seed(0)
    encoder = create_encoder(SWIN, weights=None).eval()
    fixed = timm.create_model(SWIN, features_only=True).eval()
    fixed.load_state_dict(encoder.body.state_dict())
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        for ours, theirs in zip(encoder(images), fixed(images), strict=True):
            torch.testing.assert_close(ours, theirs.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("tf_efficientnet_lite0", {}),
        ("tf_efficientnet_lite0", {"output_stride": 16}),
        ("tf_mobilenetv3_small_minimal_100", {"output_stride": 8}),
    ],
)
def test_constant_same_padding_computes_what_timm_does(
    name: str, arguments: dict[str, int]
) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(name, weights=None, **arguments).eval()  # type: ignore[arg-type]
    theirs = timm.create_model(name, features_only=True, **arguments).eval()
    theirs.load_state_dict(encoder.body.state_dict())
    with torch.inference_mode():
        for size in [(1, 1), (3, 2), (2, 5)]:
            images = torch.randn(1, 3, size[0] * encoder.divisor, size[1] * encoder.divisor)
            expected = theirs(images)[-len(encoder.strides) :]
            torch.testing.assert_close(encoder(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_an_encoder_exports_with_free_sizes(name: str) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(name, weights=None).eval()
    h, w = torch.export.Dim("h", min=2, max=40), torch.export.Dim("w", min=2, max=40)
    program = torch.export.export(
        encoder, (torch.randn(1, 3, 96, 160),), dynamic_shapes=({2: 32 * h, 3: 32 * w},)
    ).module()
    images = torch.randn(1, 3, 64, 128)
    torch.testing.assert_close(program(images), encoder(images))


def test_mean_and_std_are_those_of_the_weights() -> None:
    with torch.device("meta"):
        imagenet = create_encoder("resnet18", weights=None)
        inception = create_encoder("tf_efficientnet_lite0", weights=None)
    assert imagenet.mean == (0.485, 0.456, 0.406)
    assert imagenet.std == (0.229, 0.224, 0.225)
    assert inception.mean == inception.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("output_stride", "factors", "dilations"),
    [
        (32, (1, 2, 4), [1, 2, 4]),
        (16, (1, 2, 4), [2, 4, 8]),
        (8, (1, 2, 4), [4, 8, 16]),
        (8, (2, 1, 1), [8, 4, 4]),
    ],
)
def test_multi_grid_multiplies_the_last_stage(
    output_stride: int, factors: tuple[int, ...], dilations: list[int]
) -> None:
    with torch.device("meta"):
        encoder = create_encoder(
            "resnet50c", weights=None, output_stride=output_stride, multi_grid=factors
        )
    blocks: Any = encoder.body.layer4
    assert [block.conv2.dilation for block in blocks] == [(d, d) for d in dilations]
    assert {block.conv1.dilation for block in blocks} == {(1, 1)}


@pytest.mark.parametrize(
    ("name", "arguments"), [("resnet50s", {"multi_grid": (1, 2, 4)}), (SWIN, {"dense_swin": True})]
)
def test_images_of_any_size_have_levels_that_are_rounded_up(
    name: str, arguments: dict[str, Any]
) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name, weights=None, any_size=True, **arguments).eval()
    assert encoder.divisor == 1
    for size in [(300, 375), (1, 1), (64, 96)]:
        features = encoder(torch.empty(1, 3, *size, device="meta"))
        expected = [tuple(-(-side // s) for side in size) for s in (4, 8, 16, 32)]
        assert [tuple(x.shape[-2:]) for x in features] == expected


def test_the_dense_swin_pads_before_it_shifts() -> None:
    """Against the definition: the shifted, padded map in whole windows, its padding cut off."""
    torch.manual_seed(0)
    encoder = create_encoder(SWIN, weights=None, dense_swin=True).eval()
    body: Any = encoder.body
    block = body.layers_3.blocks[1]
    assert block.shift_size == (3, 3)  # also in the last stage, one window at 224 pixels
    x = torch.randn(1, 9, 11, 768)
    with torch.inference_mode():
        padded = nn.functional.pad(x, (0, 0, 0, 3, 0, 5))  # to 14x14, two windows a side
        expected = timm.models.swin_transformer.SwinTransformerBlock._attn(block, padded)
        torch.testing.assert_close(block._attn(x), expected[:, :9, :11])
        features = encoder(torch.rand(1, 3, 64, 64))
    # Each level is normalized: its norms are new, so mean 0 and variance 1 over the channels.
    for level in features:
        torch.testing.assert_close(level.mean(1), torch.zeros_like(level[:, 0]), atol=1e-4, rtol=0)
    assert [name for name, _ in encoder.norms.named_children()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", [SWIN, "convnext_atto", "resnet18"])
def test_drop_path_grows_to_the_last_block(name: str) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name, weights=None, drop_path=0.3)
    rates = [m.drop_prob for m in encoder.modules() if isinstance(m, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet51", {}, r"^unknown encoder 'resnet51'.*did you mean .*resnet50"),
        ("resnet50.nothing", {}, r"^unknown weights 'nothing'.*resnet50\.a1_in1k"),
        (
            "beit_base_patch16_224",
            {},
            r"^encoder .* does not take images of any size: it failed at 32x48",
        ),
        (
            "crossvit_tiny_240",
            {},
            r"^(encoder .* has strides \(12, 17\)|timm builds no f)",
        ),
        ("resnet18", {"output_stride": 4}, "^expected an output_stride of 8, 16 or 32, got 4"),
        (
            SWIN,
            {"output_stride": 16},
            "^encoder .* (does not support|always has) output",
        ),
        (
            "vgg11",
            {"output_stride": 16},
            "^timm builds no feature pyramid of 'vgg11' with output_stride=16",
        ),
        ("vgg11", {"drop_path": 0.1}, "^encoder .* does not support drop_path"),
        ("resnet18", {"dense_swin": True}, "^encoder 'resnet18' does not support dense_swin"),
        ("swinv2_tiny_window8_256", {"dense_swin": True}, "^dense_swin is for Swin"),
        ("tf_efficientnet_lite0", {"any_size": True}, "^encoder .* pads by the image's size"),
        ("convnext_atto", {"any_size": True}, "^encoder .* promises features .* 65x95 image, got"),
        (
            "resnet50c",
            {"output_stride": 8, "multi_grid": (1, 2)},
            "^multi_grid needs one factor for each of the 3 blocks",
        ),
        ("convnext_atto", {"output_stride": 8, "multi_grid": (1, 2)}, "^multi_grid is for ResNets"),
    ],
)
def test_what_cannot_be_is_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(PnaError, match=message):
        create_encoder(name, weights=None, **arguments)


class _Liar(nn.Module):
    """Says stride 8 and returns stride 4."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        info = [{"num_chs": 4, "reduction": 8, "module": "conv"}]
        self.feature_info = timm.models.FeatureInfo(info, out_indices=(0,))
        self.conv = nn.Conv2d(3, 4, kernel_size=4, stride=4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(x)]


def test_a_backbone_that_misreports_its_stride_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: _Liar())
    with pytest.raises(PnaError, match=r"^encoder .* promises .*\(4, 2, 3\).* got \[\(4, 4, 6\)\]"):
        create_encoder("resnet18", weights=None)


def test_images_must_be_multiples_of_the_divisor() -> None:
    encoder = TimmEncoder("liar", _Liar())
    with pytest.raises(
        PnaError, match="^liar takes images whose sides are multiples of 8, got 16x20"
    ):
        encoder(torch.zeros(1, 3, 16, 20))


def test_without_a_hub_the_error_says_how_to_get_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    expected = (
        r"^no pretrained weights for encoder 'resnet18': tried .*encoder_weights=None.*HF_HOME"
    )
    with pytest.raises(WeightsError, match=expected):
        create_encoder("resnet18", weights="imagenet")
