"""SegFix: its branches, and where a pixel at a boundary takes its prediction from."""

import pytest
import torch

from pna.model.refiner import Scene
from pna.model.resize import resize
from pna.model.rivals.segfix import DIRECTIONS, SegFix, take_from_inside

CHANNELS = (6, 8, 10)
SIZES = ((8, 12), (4, 6), (2, 3))


def _scene(num_classes=3, batch=2):
    torch.manual_seed(0)
    features = [
        torch.randn(batch, c, *size, requires_grad=True)
        for c, size in zip(CHANNELS, SIZES, strict=True)
    ]
    return Scene(torch.rand(batch, 3, 32, 48), features, torch.randn(batch, num_classes, 2, 3))


def _segfix(**options):
    torch.manual_seed(1)
    return SegFix(CHANNELS, channels=16, **options)


def test_a_pixel_at_a_boundary_takes_the_logits_it_is_led_to():
    H, W = 7, 9
    logits = torch.randn(2, 4, H, W)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randint(8, (2, H, W), generator=generator)
    is_boundary = torch.rand(2, H, W, generator=generator) < 0.5
    out = take_from_inside(logits, is_boundary, direction, step=2)
    for b in range(2):
        for y in range(H):
            for x in range(W):
                down, right = DIRECTIONS[direction[b, y, x]]
                row, column = min(max(y + 2 * down, 0), H - 1), min(max(x + 2 * right, 0), W - 1)
                source = logits[b, :, row, column] if is_boundary[b, y, x] else logits[b, :, y, x]
                torch.testing.assert_close(out[b, :, y, x], source, rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [1, 2, 21])
def test_one_stage_at_the_pictures_size(num_classes):
    scene = _scene(num_classes)
    with torch.no_grad():
        refined = _segfix().eval().refine(scene, stop_at=1)
    (stage,) = refined.stages
    assert stage.shape == (2, num_classes, 32, 48)
    assert refined.aux == {}
    with pytest.raises(ValueError, match="stop_at from 1 to 1, got 2"):
        _segfix().refine(scene, stop_at=2)


def test_branches_are_those_of_the_concatenation():
    """What the paper has: all levels at the finest size, concatenated, then 1x1, norm, ReLU."""
    segfix, scene = _segfix().eval(), _scene()
    for name, buffer in segfix.norm.named_buffers():
        if "running" in name:
            buffer.add_(0.3)
    joined = torch.cat([resize(x, SIZES[0]) for x in scene.features], 1)
    weight = torch.cat([conv.weight for conv in segfix.reduce], 1)
    hidden = segfix.norm(torch.nn.functional.conv2d(joined, weight)).relu()
    boundary, direction = segfix._look(scene.features)
    torch.testing.assert_close(boundary, segfix.boundary(hidden[:, :16]))
    torch.testing.assert_close(direction, segfix.direction(hidden[:, 16:]))


def test_what_is_no_boundary_stays(monkeypatch):
    segfix, scene = _segfix().eval(), _scene()
    boundary, direction = torch.full((2, 1, 8, 12), -1.0), torch.zeros(2, 8, 8, 12)
    monkeypatch.setattr(segfix, "_look", lambda features: (boundary, direction))
    coarse = resize(scene.coarse, (32, 48))
    torch.testing.assert_close(segfix.refine(scene).stages[0], coarse, rtol=0, atol=0)
    boundary[..., 6:] = 1.0  # the right half, and direction 0: from the right
    fixed = segfix.refine(scene).stages[0]
    torch.testing.assert_close(fixed[..., :24], coarse[..., :24], rtol=0, atol=0)
    torch.testing.assert_close(fixed[..., 24:46], coarse[..., 26:], rtol=0, atol=0)


def test_training_gives_what_the_loss_needs_and_reaches_the_features():
    segfix, scene = _segfix().train(), _scene()
    refined = segfix.refine(scene)
    assert refined.stages == []
    assert {k: v.shape for k, v in refined.aux.items()} == {
        "boundary": (2, 1, 8, 12),
        "direction": (2, 8, 8, 12),
    }
    sum(x.square().sum() for x in refined.aux.values()).backward()
    assert all(p.grad.abs().max() > 0 for p in segfix.parameters())
    assert all(x.grad.abs().max() > 0 for x in scene.features)
