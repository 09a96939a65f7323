"""FaPN: alignment, selection, and the head on levels of any size."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.lab.baselines.fapn import AlignedConv, FaPNHead, FeatureAlignment, FeatureSelection

CHANNELS = (6, 8, 10, 12)


def _head(num_classes: int = 5) -> FaPNHead:
    torch.manual_seed(0)
    head = FaPNHead(CHANNELS, num_classes, fpn_channels=16, channels=8)
    for module in head.modules():
        if isinstance(module, AlignedConv):  # real offsets
            nn.init.normal_(module.look.weight, std=0.2)
    return head


def _features(height: int, width: int, *, strides: Sequence[int] = (1, 2, 4, 8)) -> list[Tensor]:
    """Random features; sizes and strides are in cells of the finest level, rounded up."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return [
        torch.randn(2, c, *size, generator=generator, requires_grad=True)
        for c, size in zip(CHANNELS, sizes, strict=True)
    ]


def _waves(height: int, width: int) -> Tensor:
    """Eight smooth maps (1, 8, height, width), each with a slope nearly everywhere."""
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    return torch.stack([torch.sin(3 * ((k % 3) * y + (k // 3 + 1) * x) + k) for k in range(8)])[
        None
    ]


def test_an_aligned_convolution_samples_at_its_offsets() -> None:
    aligned = _identity_at_the_guide(AlignedConv(8))
    with torch.no_grad():
        offsets = torch.zeros(8, 9, 2)
        offsets[..., 0], offsets[..., 1] = 2, -3  # rows, columns
        aligned.look.bias[: aligned.num_offsets] = offsets.flatten()
    x = _waves(12, 15)
    out = aligned(x, torch.zeros_like(x))
    torch.testing.assert_close(out[..., :10, 3:], x[..., 2:, :-3], atol=1e-4, rtol=0)


def _identity_at_the_guide(aligned: AlignedConv) -> AlignedConv:
    """Its convolution copies the place that the offsets point at."""
    with torch.no_grad():
        aligned.conv.weight.zero_()
        aligned.conv.weight[range(8), range(8), 1, 1] = 1
        aligned.conv.bias.zero_()
        aligned.look.bias[aligned.num_offsets :] = 12  # the sigmoid is 1
    return aligned.requires_grad_(False)


def test_alignment_undoes_a_shift() -> None:
    """A coarse map that is shifted by three cells is aligned by training.

    Three cells are out of reach of a 3x3 convolution, whose weights are fixed here: only the
    offsets can do it.
    """
    torch.manual_seed(0)
    fam = FeatureAlignment(8, 8)
    _identity_at_the_guide(fam.aligned)
    fam.aligned.look.requires_grad_(True)
    wide = _waves(16, 32) + 2  # positive: the ReLU leaves it alone
    fine, shifted = wide[..., 2:26], wide[..., 5:29]

    def miss() -> Tensor:
        selected = fam.select(fine)
        inner = (fam(fine, shifted) - selected - fine)[..., 4:-4, 6:-6]
        return inner.square().mean()

    before = miss().detach()
    optimizer = torch.optim.Adam([p for p in fam.parameters() if p.requires_grad], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        miss().backward()
        optimizer.step()
    assert miss().detach() < before / 30


def test_selection_weighs_channels_by_their_averages() -> None:
    torch.manual_seed(0)
    select = FeatureSelection(3, 4)
    x = torch.randn(2, 3, 5, 7)
    with torch.no_grad():
        gate = torch.sigmoid(x.mean((2, 3)) @ select.importance.weight[..., 0, 0].T)
        expected = F.conv2d(x * (1 + gate)[..., None, None], select.reduce.weight)
    torch.testing.assert_close(select(x), expected)


@pytest.mark.parametrize("size", [(1, 1), (13, 9)])
def test_any_type_and_size(size: tuple[int, int]) -> None:
    head = _head().eval()
    features = [x.detach() for x in _features(*size)]
    with torch.no_grad():
        single = head(features)
        double = head.double()([x.double() for x in features])
    assert single.shape == (2, 5, *size)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)
    head.float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = head([x.requires_grad_() for x in features])
    assert mixed.isfinite().all()
    mixed.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_levels_of_equal_stride() -> None:
    assert _head().eval()(_features(16, 24, strides=(1, 2, 2, 2))).shape == (2, 5, 16, 24)


def test_it_exports_with_free_sizes() -> None:
    head = _head().eval()
    h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    shapes = [{2: s * h if s > 1 else h, 3: s * w if s > 1 else w} for s in (8, 4, 2, 1)]
    example = [x.detach() for x in _features(24, 40)]
    program = torch.export.export(head, (example,), dynamic_shapes=(shapes,)).module()
    features = [x.detach() for x in _features(72, 56)]
    torch.testing.assert_close(program(features), head(features))


def test_the_pyramid_is_twice_as_wide_as_the_head() -> None:
    assert FaPNHead(CHANNELS, 5).pyramid.outputs[0].out_channels == 256
    assert FaPNHead(CHANNELS, 5, channels=16).pyramid.outputs[0].out_channels == 32
    with pytest.raises(ValueError, match=r"^expected fpn_channels in multiples of 8, got 12"):
        FaPNHead(CHANNELS, 5, fpn_channels=12)
