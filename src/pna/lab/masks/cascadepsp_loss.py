"""The loss of CascadePSP: cross-entropy at coarse strides, distances and gradients at fine ones.

Source: Cheng et al., CVPR 2020 (see `cascadepsp`), section 3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pna.lab.masks.cascadepsp import CascadePSPOutput


def cascadepsp_loss(output: CascadePSPOutput, target: Tensor) -> Tensor:
    """Compute the loss of all passes.

    Cross-entropy where strides are coarse, L1 + L2 of the probabilities at stride 1, half of each
    between; and for the result, L1 of the magnitude of its gradient.

    Args:
        output: Of the network.
        target: (B, 1, H, W) in [0, 1], the true masks.

    Returns:
        A number: the weighted sum of means over the pixels.

    Example:
        >>> import torch
        >>> output = CascadePSPOutput(*torch.zeros(6, 1, 1, 8, 8))
        >>> round(cascadepsp_loss(output, torch.ones(1, 1, 8, 8)).item(), 4)
        3.8976
    """

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target)

    def distance(logits: Tensor) -> Tensor:
        difference = logits.sigmoid() - target
        return difference.abs().mean() + difference.square().mean()

    coarse = (output.pass1_stride8, output.pass2_stride8, output.pass3_stride8)
    between = (output.pass2_stride4, output.pass3_stride4)
    gradient = gradient_magnitude(output.stride1.sigmoid()) - gradient_magnitude(target)
    terms = [cross_entropy(logits) for logits in coarse]
    # Half of the mean of L1 and L2, and half of cross-entropy.
    terms += [cross_entropy(logits) / 2 + distance(logits) / 4 for logits in between]
    terms += [distance(output.stride1), 5 * gradient.abs().mean()]
    return torch.stack(terms).sum()


def gradient_magnitude(x: Tensor) -> Tensor:
    """Compute the length of the gradient after a 3x3 mean, by Sobel's operator.

    Args:
        x: (B, 1, H, W); its border is repeated.

    Returns:
        (B, 1, H, W); 1 for a step from 0 to 1 without the mean.

    Example:
        >>> import torch
        >>> step = torch.tensor([0.0, 0, 0, 1, 1, 1]).expand(1, 1, 6, 6)
        >>> [round(length, 2) for length in gradient_magnitude(step)[0, 0, 2].tolist()]
        [0.0, 0.33, 0.67, 0.67, 0.33, 0.0]
    """
    right = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    kernels = torch.stack([right, right.T])[:, None]  # (2, 1, 3, 3)
    smooth = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 3, stride=1)
    squares = F.conv2d(smooth, kernels).square().sum(1, keepdim=True)
    return (squares + 1e-6).sqrt()  # the root of 0 has no derivative
