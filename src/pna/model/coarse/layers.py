"""The layers of all coarse heads, and their base class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from pna.errors import PnaError

NUM_GROUPS = 32  # of group norm, its paper's default


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains on a batch of one value per channel.

    An image pooled to 1x1 gives one value per channel when the batch is 1. One value has no
    variance, and PyTorch raises. Then, and only then, the running statistics normalize and stay
    as they are, as in evaluation; gradients flow. In evaluation, and for two values or more, it
    is `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, h, w) per channel."""
        if self.training and x.numel() == self.num_features:  # (1, C, 1, 1)
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; keeps the size of the map.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        kernel_size: Odd side of the kernel, in cells.
        dilation: Distance of the kernel's taps, in cells.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, *, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel_size // 2)  # keeps the size at stride 1
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False
        )
        # The variance of gradients is kept, as torchvision initializes ResNets.
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, BatchNorm(out_channels), nn.ReLU(inplace=True))


class ConvGNReLU(nn.Sequential):
    """3x3 convolution without bias, group norm of 32 groups, ReLU; keeps the size of the map.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result, a multiple of 32.

    Raises:
        PnaError: `out_channels` cannot be divided into 32 groups.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        if out_channels % NUM_GROUPS:
            raise PnaError(
                f"group norm needs a multiple of {NUM_GROUPS} channels, got {out_channels}: widen "
                "the head (coarse_channels), or take batch norm (coarse_norm)"
            )
        conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(conv, nn.GroupNorm(NUM_GROUPS, out_channels), nn.ReLU(inplace=True))


class Classifier(nn.Sequential):
    """Channel dropout, then a 1x1 convolution to the classes (normal, std 0.01; zero bias).

    Args:
        in_channels: Channels of the input.
        num_classes: Channels of the result.
        dropout: Probability of zeroing a whole channel while training, in [0, 1).
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.1) -> None:
        conv = nn.Conv2d(in_channels, num_classes, kernel_size=1)
        nn.init.normal_(conv.weight, std=0.01)  # nearly equal classes at the start
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # nn.Conv2d declares an optional bias
        super().__init__(nn.Dropout2d(dropout), conv)


class CoarseHead(ABC, nn.Module):
    """Base of all coarse heads: features are checked, gathered to one map, and classified.

    A head sets `classifier` and implements `gather`.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
    """

    classifier: nn.Module

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map encoder features to coarse logits.

        Args:
            features: One (B, C, h, w) map per encoder level, fine to coarse.

        Returns:
            (B, K, h, w) logits at the head's own stride.

        Raises:
            PnaError: The number of features is not the number of `in_channels`.
        """
        if len(features) != len(self.in_channels):
            raise PnaError(
                f"expected {len(self.in_channels)} feature maps, one for each of in_channels="
                f"{self.in_channels}, got {len(features)}; pass all levels of the encoder"
            )
        logits: Tensor = self.classifier(self.gather(features))
        return logits

    @abstractmethod
    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Make one map (B, C, h, w), for the classifier, of one map per level."""
