"""Parts of the small networks that are wrapped in these tests."""

import torch.nn.functional as F
from torch import Tensor, nn

import pna

K = 7


def conv(
    inputs: int, outputs: int, stride: int = 1, dilation: int = 1, kernel: int = 3
) -> nn.Module:
    """Convolution, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def up(x: Tensor, like: Tensor) -> Tensor:
    """Resize to the size of another tensor."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """Steps e1 to e4 at strides 2 to 16, with 8, 12, 16 and 24 channels; a head at stride 16."""

    def __init__(self, num_classes: int = K) -> None:
        super().__init__()
        self.e1, self.e2 = conv(3, 8, 2), conv(8, 12, 2)
        self.e3, self.e4 = conv(12, 16, 2), conv(16, 24, 2)
        self.head = nn.Conv2d(24, num_classes, 1)

    def steps(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a = self.e1(images)
        b = self.e2(a)
        c = self.e3(b)
        return a, b, c, self.e4(c)

    def forward(self, images: Tensor):
        return up(self.head(self.steps(images)[-1]), images)


def wrap(network: nn.Module, num_classes: int = K, **options) -> pna.Cascade:
    """A cascade without refinement: what it found is what counts here."""
    return pna.cascade(network, num_classes, normalize=None, pna=None, **options)
