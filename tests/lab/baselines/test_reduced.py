"""Patches cover the image, are cut at their place, and put together again exactly."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.reduced import Box, ReducedEncoder, crop, paste, plan_patches
from pna.model.config import ModelOptions
from pna.model.encoder import create_encoder
from pna.model.resize import average


@given(
    st.tuples(st.integers(8, 90), st.integers(8, 90)),
    st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)),
    st.floats(0, 0.6),
    st.sampled_from([1, 4]),
)
def test_patches_cover_the_image(size, shares, overlap, align):
    size = tuple(side // 4 * 4 for side in size)
    patch = [max(4, int(side * share) // 4 * 4) for side, share in zip(size, shares, strict=True)]
    covered = torch.zeros(size)
    for box in plan_patches(size, patch, overlap=overlap, align=align):
        rows, columns = box.of(size)
        assert (rows.stop - rows.start, columns.stop - columns.start) == tuple(patch)
        assert rows.start % align == columns.start % align == 0
        covered[rows, columns] += 1
    assert covered.min() >= 1


def test_neighbors_overlap_by_a_share():
    boxes = plan_patches((64, 100), (64, 40), overlap=0.25)
    lefts = [round(box.left * 100) for box in boxes]
    assert lefts == [0, 30, 60]


def test_parts_put_together_are_the_map():
    x = torch.randn(2, 3, 48, 60)
    boxes = plan_patches((48, 60), (16, 20), overlap=0.3)
    parts = []
    for box in boxes:
        rows, columns = box.of((48, 60))
        parts.append((box, x[..., rows, columns]))
    torch.testing.assert_close(paste(parts, (48, 60)), x)


def test_overlapping_parts_are_averaged():
    boxes = [Box(0, 0, 1, 0.75), Box(0, 0.25, 1, 1)]
    parts = [torch.full((1, 1, 4, 6), 1.0), torch.full((1, 1, 4, 6), 3.0)]
    pasted = paste(zip(boxes, parts, strict=True), (4, 8))
    assert pasted[0, 0, 0].tolist() == [1, 1, 2, 2, 2, 2, 3, 3]


def test_finer_parts_are_averaged_down():
    x = torch.randn(1, 2, 16, 16)
    boxes = plan_patches((16, 16), (8, 8))
    parts = [(box, x[(..., *box.of((16, 16)))]) for box in boxes]
    torch.testing.assert_close(paste(parts, (4, 4)), average(x, (4, 4)))


def test_a_part_at_its_own_size_is_cut_exactly():
    x = torch.randn(1, 2, 12, 20)
    box = Box(0.25, 0.5, 0.75, 1)
    torch.testing.assert_close(crop(x, box, (6, 10)), x[..., 3:9, 10:20])


def test_a_ramp_is_cut_to_the_fraction_of_a_cell():
    columns = (torch.arange(16.0) + 0.5) / 16
    x = columns.expand(1, 1, 16, 16)
    part = crop(x, Box(0.2, 0.3, 0.6, 0.7), (5, 8))
    expected = 0.3 + 0.4 * (torch.arange(8.0) + 0.5) / 8
    torch.testing.assert_close(part[0, 0], expected.expand(5, -1))


def test_gradients_reach_the_parts():
    parts = [torch.randn(1, 1, 4, 4, requires_grad=True) for _ in range(4)]
    boxes = plan_patches((8, 8), (4, 4))
    paste(zip(boxes, parts, strict=True), (8, 8)).sum().backward()
    assert all((part.grad == 1).all() for part in parts)


def test_the_encoder_sees_the_image_averaged():
    encoder = create_encoder("resnet18", weights=None).eval()
    reduced = ReducedEncoder(encoder, 3)
    assert reduced.strides == (12, 24, 48, 96)
    assert reduced.divisor == 96
    images = torch.rand(1, 3, 96, 192)
    with torch.inference_mode():
        torch.testing.assert_close(
            reduced(images)[0], encoder(torch.nn.functional.avg_pool2d(images, 3))[0]
        )
        with pytest.raises(ValueError, match="multiples of 32"):
            reduced(torch.rand(1, 3, 100, 100))


@pytest.mark.parametrize("preset", ["glnet-thirds", "magnet-thirds"])
def test_a_network_of_patches_is_not_exported(preset, tmp_path):
    model = pna.create_model(preset, 3, encoder="resnet18", encoder_weights=None, presets=PRESETS)
    with pytest.raises(
        pna.PnaError, match="Net on encoder resnet18 cannot be exported: the number of"
    ):
        pna.export_model(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("preset", ["glnet-thirds", "magnet-thirds", "isdnet"])
def test_images_that_are_not_padded_are_refused(preset):
    options = ModelOptions(padding="none")
    with pytest.raises(pna.PnaError, match='so it pads them, got padding="none": take "repl'):
        pna.create_model(preset, 3, encoder_weights=None, options=options, presets=PRESETS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_cuts_at_the_same_place(dtype):
    columns = torch.linspace(0, 1, 2048).expand(1, 1, 8, -1)
    box = Box(0.0, 0.25, 1.0, 0.75)
    expected = crop(columns, box, (4, 512))
    found = crop(columns.to(dtype), box, (4, 512))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=4e-3)  # a step of bfloat16
