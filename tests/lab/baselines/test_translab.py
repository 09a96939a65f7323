"""TransLab: the boundary's target and loss, its attention, and the size that is published."""

import pytest
import torch

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.eblnet import is_boundary
from pna.lab.baselines.translab import (
    BOUNDARY_WEIGHT,
    BoundaryAttention,
    BoundaryLoss,
    TransLabNeck,
)
from pna.model.counts import count


def maps(batch=2):
    return [
        torch.randn(batch, channels, 64 // stride, 96 // stride)
        for channels, stride in ((16, 4), (32, 8), (64, 16), (64, 16))
    ]


def test_two_results_at_the_finest_stride():
    neck = TransLabNeck((16, 32, 64, 64), 8).eval()
    with torch.no_grad():
        decoded, boundary = neck(maps())
    assert decoded.shape == (2, 8, 16, 24)
    assert boundary.shape == (2, 1, 16, 24)
    assert neck.channels == (8, 1)


def test_an_encoder_of_one_level():
    neck = TransLabNeck((16,), 8).eval()
    with torch.no_grad():
        decoded, _ = neck([torch.randn(1, 16, 5, 7)])
    assert decoded.shape == (1, 8, 5, 7)


def test_the_attention_sees_the_boundary_and_weighs_channels():
    torch.manual_seed(0)
    attention, x = BoundaryAttention(32).eval(), torch.randn(1, 32, 8, 12)
    nowhere, left = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    left[..., :2] = 1
    with torch.no_grad():
        same, changed = attention(x, nowhere), attention(x, left)
        joined = attention.join(torch.cat([x, torch.zeros_like(x)], 1))
        share = same / joined
    assert not torch.equal(same, changed)
    # One weight for each channel, in (0, 1).
    weights = share[joined != 0]
    assert (weights > 0).all()
    assert (weights < 1).all()
    for channel in range(32):
        seen = share[0, channel][joined[0, channel] != 0]
        if len(seen):
            torch.testing.assert_close(seen, seen[:1].expand_as(seen))


def test_the_loss_is_small_on_the_outline_of_the_regions():
    labels = torch.zeros(1, 40, 40, dtype=torch.int64)
    labels[:, 10:30, 10:30] = 1
    outline = is_boundary(labels)
    assert 0.3 < outline.float().mean() < 0.5  # 8 pixels wide
    right = torch.where(outline, 20.0, -20.0)[:, None]
    loss = BoundaryLoss()
    assert float(loss.losses({"boundary": right}, labels)["boundary"]) < 0.01
    wrong = float(loss.losses({"boundary": -right}, labels)["boundary"])
    assert wrong > 0.9 * BOUNDARY_WEIGHT


def test_raw_logits_as_released_are_an_option():
    """A probability of 1 everywhere is a logit of 1 to the authors' code."""
    labels = torch.zeros(1, 40, 40, dtype=torch.int64)
    labels[:, 10:30, 10:30] = 1
    outline = is_boundary(labels).float()[:, None]
    released = BoundaryLoss(of_logits=True).losses({"boundary": outline}, labels)["boundary"]
    assert float(released) == pytest.approx(0, abs=1e-6)
    assert float(BoundaryLoss().losses({"boundary": outline}, labels)["boundary"]) > 1


def test_it_has_the_size_that_is_published():
    """42.19 million parameters with the classifier of ResNet-50, and 61.31 GMACs at 512x512.

    As listed by Xie et al., "Segmenting Transparent Objects in the Wild with Transformer", Table 3.
    """
    with torch.device("meta"):
        model = pna.create_model("translab", 3, encoder_weights=None, presets=PRESETS)
    of_imagenet = 2048 * 1000 + 1000
    parts = count(model, (512, 512))
    assert sum(p.parameters for p in parts) + of_imagenet == pytest.approx(42.19e6, rel=0.003)
    assert sum(p.macs for p in parts) == pytest.approx(61.31e9, rel=0.02)


def test_it_learns_the_boundary():
    torch.manual_seed(0)
    model = pna.create_model(
        "translab",
        2,
        encoder="resnet18",
        encoder_weights=None,
        options=pna.model.config.ModelOptions(coarse_channels=16),
        presets=PRESETS,
    ).train()
    images, labels = torch.zeros(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    images[..., 16:48, 16:48], labels[..., 16:48, 16:48] = 1, 1
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        found = pna.segmentation_loss(model(images), labels, model)
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
        losses.append(float(found.parts["boundary"]))
    assert losses[-1] < 0.6 * losses[0]
