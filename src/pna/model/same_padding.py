"""TensorFlow's "same" padding as a constant, for images whose sides are multiples of the stride.

timm's `tf_*` encoders compute the padding of each strided convolution from the size at hand.
With free sizes those formulas nest, and an exporter does not come to an end with them. Where the
input's side is a multiple of the convolution's stride s, which an encoder's divisor guarantees, the
padding is max((k - 1) d + 1 - s, 0) for every size: a constant of the layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SamePaddedConv(nn.Conv2d):
    """A convolution with constant "same" padding; an odd rest goes to the right and bottom.

    Args:
        conv: The convolution whose settings and parameters it takes over; its own padding is
            left out.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            dilation=(conv.dilation[0], conv.dilation[1]),
            groups=conv.groups,
            bias=conv.bias is not None,
            device=torch.device("meta"),  # the parameters come from conv
        )
        # The same parameters under the same names: state dicts and optimizers notice nothing.
        self.weight = conv.weight
        self.bias = conv.bias
        top, bottom = self._margins(axis=0)
        left, right = self._margins(axis=1)
        self._pad = (left, right, top, bottom)

    def _margins(self, *, axis: int) -> tuple[int, int]:
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        # Of h = n s cells, n windows s apart span (n - 1) s + reach cells: the rest is padding.
        total = max(reach - self.stride[axis], 0)
        return total // 2, total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w), h and w multiples of the stride, to (B, C', h / stride, w / stride)."""
        return super().forward(F.pad(x, self._pad))


def fix_same_padding(body: nn.Module) -> int:
    """Give every size-dependent "same" convolution of a timm model its constant padding, in place.

    The keys of the state dict stay as they are.

    Returns:
        The number of such convolutions.
    """
    from timm.layers.conv2d_same import Conv2dSame

    count = 0
    for parent in list(body.modules()):
        for name, child in parent.named_children():
            if type(child) is Conv2dSame:  # not a subclass, whose forward would be lost
                setattr(parent, name, SamePaddedConv(child))
                count += 1
    return count
