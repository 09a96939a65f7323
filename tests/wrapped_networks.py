"""The networks that are wrapped in the tests: random weights, tiny where libraries allow it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torchvision.models import segmentation

K = 7  # classes: no level of features has so many channels


class Case(NamedTuple):
    """A network and what must be found in it.

    Attributes:
        build: Makes it.
        strides: Of the features.
        coarse_from: Where P0 is taken.
        coarse_stride: Its stride.
        divisor: What images are padded to.
        options: Further arguments for `pna.cascade`.
        is_huge: Takes seconds rather than tenths.
    """

    build: Callable[[], nn.Module]
    strides: tuple[int, ...]
    coarse_from: str | None
    coarse_stride: int
    divisor: int
    options: Mapping[str, Any] = MappingProxyType({})
    is_huge: bool = False


class Plain(nn.Module):
    """What a reader may have written: an encoder in three steps, one way up, logits at stride 2."""

    def __init__(self, num_classes: int = K) -> None:
        super().__init__()
        self.stem = self._down(3, 8)
        self.down1 = self._down(8, 12)
        self.down2 = self._down(12, 16)
        self.down3 = self._down(16, 24)
        self.up = nn.Conv2d(24 + 16, 16, 3, padding=1)
        self.classify = nn.Conv2d(16, num_classes, 1)

    @staticmethod
    def _down(inputs: int, outputs: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        x4 = self.down1(self.stem(images))
        x8 = self.down2(x4)
        x16 = self.down3(x8)
        x = self.up(torch.cat([F.interpolate(x16, scale_factor=2.0), x8], 1)).relu()
        logits = self.classify(x)
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


class OnTimm(nn.Module):
    """A timm backbone under a 1x1 convolution."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, **options)
        self.head = nn.Conv2d(self.body.feature_info.channels()[-1], K, 1)
        self.is_channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"

    def forward(self, images: Tensor) -> Tensor:
        last = self.body(images)[-1]
        return self.head(last.permute(0, 3, 1, 2) if self.is_channels_last else last)


def semantic_map(output: Any) -> Tensor:
    """Mask2Former's scores of the classes: its masks, weighted by the scores of its queries."""
    classes = output.class_queries_logits.softmax(-1)[..., :-1]  # the last is "no object"
    return torch.einsum("bqc,bqhw->bchw", classes, output.masks_queries_logits.sigmoid())


_SWIN = {
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_CONVNEXT = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def _mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**_SWIN),
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        num_queries=6,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=16,
        encoder_feedforward_dim=16,
        num_attention_heads=2,
        num_labels=K,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def _upernet() -> nn.Module:
    config = transformers.UperNetConfig(
        backbone_config=transformers.ConvNextConfig(**_CONVNEXT),
        hidden_size=16,
        num_labels=K,
        auxiliary_in_channels=24,
        auxiliary_channels=8,
    )
    return transformers.UperNetForSemanticSegmentation(config)


def _segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        num_labels=K,
    )
    return transformers.SegformerForSemanticSegmentation(config)


def _smp(name: str, encoder: str = "resnet18", **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(smp, name)(encoder, encoder_weights=None, classes=K, **options)


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(segmentation, name)(
        weights=None, weights_backbone=None, num_classes=K, **options
    )


_PYRAMID = (4, 8, 16, 32)

CASES = {
    "fcn_resnet50": Case(
        _torchvision("fcn_resnet50", aux_loss=True),
        (4, 8, 8, 8),
        "classifier",
        8,
        8,
        is_huge=True,
    ),
    "deeplabv3_resnet101": Case(
        _torchvision("deeplabv3_resnet101"), (4, 8, 8, 8), "classifier", 8, 8, is_huge=True
    ),
    "lraspp": Case(_torchvision("lraspp_mobilenet_v3_large"), (4, 8, 16, 16), "classifier", 8, 16),
    "Unet": Case(_smp("Unet"), _PYRAMID, "", 1, 32),
    "FPN": Case(_smp("FPN"), _PYRAMID, "", 1, 32),
    "DeepLabV3Plus": Case(_smp("DeepLabV3Plus"), (4, 8, 16, 16), "", 1, 16),
    "PSPNet": Case(_smp("PSPNet"), (4, 8), "", 1, 8),
    "UPerNet": Case(_smp("UPerNet", decoder_channels=32), _PYRAMID, "", 1, 32),
    "Segformer": Case(_smp("Segformer", "mit_b0"), _PYRAMID, "", 1, 32),
    "DPT": Case(
        _smp(
            "DPT",
            "tu-vit_tiny_patch16_224",
            encoder_depth=4,
            decoder_intermediate_channels=(8, 16, 24, 32),
            decoder_fusion_channels=8,
            dynamic_img_size=True,
        ),
        _PYRAMID,
        "",
        1,
        32,
        {"features": [f"decoder.reassemble_blocks.{i}" for i in range(4)]},
    ),
    "hf-segformer": Case(_segformer, _PYRAMID, "[logits]", 4, 32),
    "hf-upernet": Case(_upernet, _PYRAMID, "decode_head", 4, 32),
    "hf-mask2former": Case(_mask2former, _PYRAMID, None, 4, 32, {"coarse": semantic_map}),
    "timm-lite0": Case(lambda: OnTimm("tf_efficientnet_lite0"), _PYRAMID, "", 32, 32),
    "timm-swin": Case(
        lambda: OnTimm("swin_tiny_patch4_window7_224", strict_img_size=False, depths=(1, 1, 1, 1)),
        _PYRAMID,
        "",
        32,
        32,
    ),
    "plain": Case(Plain, (4, 8, 16), "classify", 8, 16),
}
