"""The controls of the mask refiner: convolutional decoders with its inputs, losses and size.

A stage resizes the coarser logits bilinearly and corrects them after two 3x3 convolutions with
batch norm and ReLU. A gain of the refiner over them comes from gathering, and from its depth-wise
blocks, not from more parameters, finer strides or other losses.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import ConvBNReLU
from pna.model.encoder import EncoderWeights
from pna.model.pna.nam import Neighborhood
from pna.model.resize import resize
from pna.refinement.network import MaskRefiner, MaskStage, create_mask_refiner


class DecoderMaskStage(MaskStage):
    """Resize the coarser logits, see the given mask, correct.

    Args:
        in_channels: Channels C of the features.
        width: Channels D of the stage.
        handed_on: Channels that the coarser stage hands on; None takes none.
    """

    def __init__(self, in_channels: int, width: int, handed_on: int | None) -> None:
        super().__init__(in_channels, width, handed_on, window=1, depth=0)
        self.carry = None
        self.blocks = nn.Sequential(ConvBNReLU(width, width), ConvBNReLU(width, width))

    def gather(
        self, f: Tensor, coarse: Tensor, image: Tensor
    ) -> tuple[Tensor, Neighborhood | None]:
        """Resize logits (B, h, w, K) to the grid of the features (B, H, W, D)."""
        resized = resize(coarse.permute(0, 3, 1, 2), f.shape[1:3])
        return resized.permute(0, 2, 3, 1), None

    def mix(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        return cast(Tensor, self.blocks(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def create_mask_decoder(
    *, pass_features: bool, encoder_weights: EncoderWeights | None = "imagenet"
) -> MaskRefiner:
    """Build a decoder whose stages have as many parameters as those of the bundled refiner.

    Args:
        pass_features: Whether a stage hands its features on to the finer one.
        encoder_weights: See `create_mask_refiner`.

    Example:
        >>> parts = [
        ...     create_mask_refiner(encoder_weights=None).stages,
        ...     create_mask_decoder(pass_features=True, encoder_weights=None).stages,
        ... ]
        >>> sizes = [sum(p.numel() for p in part.parameters()) for part in parts]
        >>> abs(sizes[1] / sizes[0] - 1) < 0.03
        True
    """
    model = create_mask_refiner(encoder_weights=encoder_weights)
    stages: list[MaskStage] = []
    handed_on: int | None = None
    for stage in model.stages:  # coarse to fine
        assert isinstance(stage, MaskStage)
        channels = stage.embed_feature.in_features
        target = _count(stage)
        widths: Sequence[int] = range(1, 200)
        with torch.device("meta"):
            width = min(
                widths,
                key=lambda width: abs(
                    _count(DecoderMaskStage(channels, width, handed_on)) - target
                ),
            )
        stages.append(DecoderMaskStage(channels, width, handed_on))
        handed_on = width if pass_features else None
    return MaskRefiner(model.encoder, list(model.stems), stages)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
