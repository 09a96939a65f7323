"""CascadePSP: a network that refines any mask of an image in three passes.

It is a PSPNet with a decoder whose input is the image and three masks. The first pass sees the
given mask three times and corrects it at stride 8, the second gets that result and corrects it at
strides 8 and 4, the third gets both and ends at stride 1. In there masks are in [-1, 1].
`cascadepsp_steps` runs it on images of any size.

Source: Cheng, Chung, Tai, Tang, "CascadePSP: Toward Class-Agnostic and Very High-Resolution
Segmentation via Global and Local Refinement", CVPR 2020, section 3.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.errors import PnaError
from pna.model.encoder import EncoderWeights, create_encoder
from pna.model.resize import adaptive_average_pool, resize

_STRIDE = 8  # of the encoder
_BINS = (1, 2, 3, 6)


class CascadePSPOutput(NamedTuple):
    """Logits of the three passes, each (B, 1, H, W) at the size of the image.

    Attributes:
        pass1_stride8: Of the first pass.
        pass2_stride8, pass2_stride4: Of the second.
        pass3_stride8, pass3_stride4: Of the third; they train only.
        stride1: Of the third: the result.
    """

    pass1_stride8: Tensor
    pass2_stride8: Tensor
    pass2_stride4: Tensor
    pass3_stride8: Tensor
    pass3_stride4: Tensor
    stride1: Tensor


class CascadePSP(nn.Module):
    """The refinement module.

    Args:
        encoder: A timm encoder that dilates to stride 8 and begins with a convolution of stride 2:
            the paper's "resnet50", or a small one such as "tf_efficientnet_lite0".
        width: Factor on the channels of pyramid and decoder (1024, 512, 256, 32).
        weights: "imagenet" starts the encoder from pretrained weights; the three channels of masks
            always start at random.

    Raises:
        PnaError: The encoder is unknown, or of another kind.

    Example:
        >>> import torch
        >>> network = CascadePSP(encoder="resnet18", width=0.25).eval()
        >>> with torch.inference_mode():
        ...     output = network(torch.rand(1, 3, 45, 61), torch.rand(1, 1, 45, 61))
        >>> output.stride1.shape
        torch.Size([1, 1, 45, 61])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        encoder: str = "resnet50",
        width: float = 1.0,
        weights: EncoderWeights | None = None,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise PnaError(f"expected a width above 0, got {width=}")
        made = create_encoder(encoder, weights=weights, output_stride=_STRIDE)
        info: Any = made.body.feature_info
        self._stride4 = info.reduction().index(4)
        # The first convolution stands before the rest of the encoder: the decoder takes its result
        # too, before batch norm.
        self.stem = _take_stem(encoder, made.body)
        self.body = made.body
        wide, middle, narrow, last = (
            max(8, round(channels * width / 8) * 8) for channels in (1024, 512, 256, 32)
        )
        self.pyramid = _Pyramid(made.channels[-1], wide)
        self.up4 = _Up(wide, made.channels[0], middle)
        self.up2 = _Up(middle, self.stem.out_channels, narrow)
        self.up1 = _Up(narrow, 3, last)
        self.head8 = _head(wide, last)
        self.head4 = _head(middle, last)
        self.head1 = _head(last + 3, last)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(made, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor, masks: Tensor) -> CascadePSPOutput:
        """Refine masks in three passes (the global step).

        Args:
            images: (B, 3, H, W) in [0, 1], of any size.
            masks: (B, 1, H, W) in [0, 1].

        Raises:
            PnaError: The shapes do not fit.
        """
        x, mask = self._prepare(images, masks)
        first = self._run(x, (mask, mask, mask), num_heads=1)
        rest = self._run_rest(x, mask, first[0].tanh())
        return CascadePSPOutput(*(_cut(logits, images) for logits in (*first, *rest)))

    def refine_locally(self, images: Tensor, masks: Tensor, stride4: Tensor) -> Tensor:
        """Refine masks by the second and third pass alone (the local step).

        Args:
            images: (B, 3, H, W) in [0, 1]: crops.
            masks: (B, 1, H, W) in {0, 1}: the result of the global step, there.
            stride4: (B, 1, H, W) in [0, 1]: its probabilities at stride 4, in place of the first
                pass.

        Returns:
            (B, 1, H, W) logits.

        Raises:
            PnaError: The shapes do not fit.
        """
        x, mask = self._prepare(images, masks)
        _, before = self._prepare(images, stride4)
        return _cut(self._run_rest(x, mask, before)[-1], images)

    def _prepare(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize both, and repeat their last rows and columns up to a multiple of the stride."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise PnaError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
        expected = (len(images), 1, *images.shape[-2:])
        if tuple(masks.shape) != expected:
            raise PnaError(
                f"expected masks (B, 1, H, W) like the images, {expected}, got {tuple(masks.shape)}"
            )
        down, right = (-side % _STRIDE for side in images.shape[-2:])
        pad = (0, right, 0, down)
        x = F.pad((images - self.mean) / self.std, pad, mode="replicate")
        return x, F.pad(2 * masks - 1, pad, mode="replicate")

    def _run_rest(self, x: Tensor, mask: Tensor, before: Tensor) -> list[Tensor]:
        """Run the second and third pass: their logits at 8, 4; 8, 4, 1."""
        second = self._run(x, (mask, before, before), num_heads=2)
        third = self._run(x, (mask, second[0].tanh(), second[1].tanh()), num_heads=3)
        return [*second, *third]

    def _run(self, x: Tensor, masks: tuple[Tensor, ...], *, num_heads: int) -> list[Tensor]:
        """Run the network once.

        Args:
            x: (B, 3, H, W) normalized.
            masks: Three of (B, 1, H, W) in [-1, 1].
            num_heads: 1 ends at stride 8, 2 at 4, 3 at 1.

        Returns:
            Logits (B, 1, H, W) of each stride, coarse to fine.
        """
        stem = self.stem(torch.cat([x, *masks], 1))  # (B, C, H / 2, W / 2)
        levels = self.body(stem)
        y = self.pyramid(levels[-1])  # (B, 1024, H / 8, W / 8)
        logits = [self.head8(y)]
        if num_heads > 1:
            y = self.up4(y, levels[self._stride4])
            logits.append(self.head4(y))
        if num_heads > 2:
            y = self.up1(self.up2(y, stem), x)
            logits.append(self.head1(torch.cat([y, x], 1)))
        return [resize(each, x.shape[-2:]) for each in logits]


class _Pyramid(nn.Module):
    """PSPNet's pooling pyramid, without batch norm; every branch keeps all channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, 1, bias=False) for _ in _BINS
        )
        self.fuse = nn.Conv2d((1 + len(_BINS)) * in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, out_channels, h, w)."""
        pooled = [
            resize(branch(adaptive_average_pool(x, (bins, bins))), x.shape[-2:])
            for branch, bins in zip(self.branches, _BINS, strict=True)
        ]
        return cast(Tensor, self.fuse(torch.cat([*pooled, x], 1))).relu()


class _Up(nn.Module):
    """Resize, join a finer map, and two residual blocks with activations before convolutions.

    Args:
        in_channels: Channels of the coarse map; the first shortcut takes it alone.
        skip_channels: Channels of the finer map.
        out_channels: Channels of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _convolutions(in_channels + skip_channels, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.second = _convolutions(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, in_channels, ., .) and a skip (B, skip_channels, h, w) to (B, ., h, w)."""
        x = resize(x, skip.shape[-2:])
        x = self.first(torch.cat([x, skip], 1)) + self.shortcut(x)
        return cast(Tensor, x + self.second(x))


def _convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        conv = nn.Conv2d(channels, out_channels, 3, padding=1)
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv]
    return nn.Sequential(*layers)


def _head(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, 1, 1))


def _take_stem(encoder: str, body: nn.Module) -> nn.Conv2d:
    """Take the first convolution out of an encoder, and give it three more inputs: the masks."""
    name, stem = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.Conv2d))
    if stem.stride != (2, 2) or stem.in_channels != 3:
        raise PnaError(
            f"expected an encoder that begins with a convolution of stride 2, got {encoder!r} with "
            f"stride {stem.stride}; use resnet50 or tf_efficientnet_lite0"
        )
    parent, _, attribute = name.rpartition(".")
    setattr(body.get_submodule(parent), attribute, nn.Identity())
    masks = torch.empty_like(stem.weight)
    nn.init.kaiming_normal_(masks, mode="fan_out", nonlinearity="relu")
    # In place: the convolution may be of a class that pads in its own way.
    stem.weight = nn.Parameter(torch.cat([stem.weight.detach(), masks], 1))
    stem.in_channels = 6
    return stem


def _cut(x: Tensor, images: Tensor) -> Tensor:
    """Cut off what was padded."""
    return x[..., : images.shape[-2], : images.shape[-1]]
