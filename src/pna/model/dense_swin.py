"""Swin as its authors run it for dense prediction, on timm's modules.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV
2021), whose backbone of detection and segmentation differs from the classifier that timm has:

- each level of the result has a layer norm of its own;
- a map that is no multiple of the window is padded first and shifted then; timm shifts first;
- every second block shifts its windows, also where the map is one window at 224 pixels (timm's
  `always_partition`);
- an image that is no multiple of the patch is padded with zeros.

The first is `TimmEncoder`'s, the third an argument of timm; the others are here.
"""

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F


class PaddedSwinBlock(SwinTransformerBlock):
    """A block that pads its map to whole windows, right and bottom, before it shifts them."""

    def _attn(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C), normalized, to (B, H, W, C)."""
        H, W = x.shape[1:3]
        rows, cols = self.window_size
        x = F.pad(x, (0, 0, 0, -W % cols, 0, -H % rows))
        # timm's own finds nothing left to pad.
        attended: Tensor = super()._attn(x)  # type: ignore[no-untyped-call]
        return attended[:, :H, :W]


def make_dense(body: nn.Module) -> bool:
    """Give the blocks of a timm Swin their form for dense prediction, in place.

    The keys of the state dict stay as they are.

    Args:
        body: Built with `always_partition=True`.

    Returns:
        Whether it is a Swin; anything else stays as it is.
    """
    blocks = [module for module in body.modules() if type(module) is SwinTransformerBlock]
    for block in blocks:
        # In place: a block made anew would have other parameters than timm has initialized.
        block.__class__ = PaddedSwinBlock
    if blocks:
        patch_embed: Any = body.patch_embed
        patch_embed.dynamic_img_pad = True
    return bool(blocks)
