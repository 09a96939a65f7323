import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pna
from pna.labels import generic
from pna.model.config import ModelConfig
from pna.model.refiner import Refiner
from pna.train.losses import (
    FEWEST_AS_ROWS,
    LossConfig,
    count_valid,
    cross_entropy,
    hard_pixel_cross_entropy,
    segmentation_loss,
)
from tiny_training import TinySegmenter


def resized(logits: Tensor) -> Tensor:
    return F.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)


def make_output(
    *, num_stages: int = 2, dtype: torch.dtype = torch.float32, num_classes: int = 3
) -> pna.SegmenterOutput:
    """Outputs at strides 4, 2, 2, ... for 8 x 8 images."""
    torch.manual_seed(0)
    sides = [2, *([4] * (num_stages + 1))]
    coarse, *stages, aux = [
        torch.randn(2, num_classes, s, s, dtype=dtype).requires_grad_() for s in sides
    ]
    return pna.SegmenterOutput(resized([coarse, *stages][-1]), coarse, stages, {"aux": aux})


def make_labels(ignored: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (2, 8, 8), generator=generator)
    labels[torch.rand(2, 8, 8, generator=generator) < ignored] = 255
    return labels


def pixel_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of every valid pixel, by the definition."""
    valid = labels != 255
    chosen = logits.permute(0, 2, 3, 1)[valid].double()
    logs = chosen - chosen.exp().sum(-1, keepdim=True).log()
    return -logs.gather(1, labels[valid][:, None])[:, 0].detach()


@pytest.mark.parametrize("num_classes", [3, FEWEST_AS_ROWS - 1, FEWEST_AS_ROWS])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cross_entropy_is_the_mean_over_valid_pixels(
    num_classes: int, layout: torch.memory_format
) -> None:
    labels = make_labels()
    logits = torch.randn(2, num_classes, 8, 8).contiguous(memory_format=layout).requires_grad_()
    expected = pixel_losses(logits, labels).mean()
    loss = cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    one_hot = F.one_hot(labels.where(labels != 255, 0), num_classes).permute(0, 3, 1, 2)
    slope = (logits.softmax(1) - one_hot) * (labels != 255)[:, None] / (labels != 255).sum()
    torch.testing.assert_close(logits.grad, slope.detach(), rtol=1e-4, atol=1e-7)
    hardest = hard_pixel_cross_entropy(logits, labels, share=1.0)
    torch.testing.assert_close(hardest, loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_hard_pixels_are_a_share_of_the_valid_ones(share: float) -> None:
    logits, labels = torch.randn(2, 3, 8, 8), make_labels(ignored=0.6)
    ordered = pixel_losses(logits, labels).sort(descending=True).values
    expected = ordered[: int(share * len(ordered))].mean()
    loss = hard_pixel_cross_entropy(logits, labels, share=share)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_one_valid_pixel_is_a_hard_one() -> None:
    labels = torch.full((1, 4, 4), 255)
    labels[0, 1, 2] = 1
    logits = torch.randn(1, 3, 4, 4)
    loss = hard_pixel_cross_entropy(logits, labels, share=0.2)
    torch.testing.assert_close(loss, cross_entropy(logits, labels))


@pytest.mark.parametrize("num_classes", [3, FEWEST_AS_ROWS])
def test_class_weights_are_those_of_torch(num_classes: int) -> None:
    labels = make_labels()
    logits = torch.randn(2, num_classes, 8, 8)
    weights = torch.rand(num_classes).tolist()
    oracle = nn.CrossEntropyLoss(torch.tensor(weights), ignore_index=255)(logits, labels)
    torch.testing.assert_close(cross_entropy(logits, labels, weights), oracle)
    hardest = hard_pixel_cross_entropy(logits, labels, weights, share=1.0)
    torch.testing.assert_close(hardest, oracle)
    config = LossConfig(class_weights=weights)  # type: ignore[arg-type]
    output = pna.SegmenterOutput(logits, logits, [], {})
    torch.testing.assert_close(segmentation_loss(output, labels, config=config).total, oracle)


def test_a_class_of_weight_zero_teaches_nothing() -> None:
    logits, labels = torch.randn(1, 3, 4, 4, requires_grad=True), torch.ones(1, 4, 4).long()
    for loss in (cross_entropy, hard_pixel_cross_entropy):
        assert float(loss(logits, labels, [1.0, 0.0, 1.0]).detach()) == 0.0


@pytest.mark.parametrize("kind", ["cross_entropy", "hard_pixels"])
@pytest.mark.parametrize("num_valid", [None, 0])
def test_nothing_valid_gives_zero_with_a_graph(kind: str, num_valid: int | None) -> None:
    output, labels = make_output(), torch.full((2, 8, 8), 255)
    config = LossConfig(coarse_kind=kind, stage_kind=kind)  # type: ignore[arg-type]
    loss = segmentation_loss(output, labels, config=config, num_valid=num_valid)
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0
    assert all(float(part) == 0.0 for part in loss.parts.values())
    for logits in (output.coarse, *output.stages, output.aux["aux"]):
        assert logits.grad is not None
        assert not logits.grad.any()


def test_total_is_the_weighted_sum_of_the_parts_at_full_size() -> None:
    output, labels = make_output(), make_labels()
    config = LossConfig(coarse=1.0, stage=0.1, aux=0.4)
    total, parts = segmentation_loss(output, labels, config=config)
    assert list(parts) == ["P0", "P1", "P2", "aux"]
    for name, logits in {"P0": output.coarse, "P1": output.stages[0]}.items():
        expected = pixel_losses(resized(logits), labels).mean()
        assert float(parts[name]) == pytest.approx(float(expected), rel=1e-5)
    expected = parts["P0"] + 0.1 * (parts["P1"] + parts["P2"]) + 0.4 * parts["aux"]
    torch.testing.assert_close(total.detach(), expected)


def test_gradients_reach_every_output() -> None:
    output = make_output()
    total, parts = segmentation_loss(output, make_labels())
    total.backward()
    assert all(x.grad.any() for x in [output.coarse, *output.stages, output.aux["aux"]])
    assert not any(part.requires_grad for part in parts.values())


def tiny_model(labels: int = 3) -> TinySegmenter:
    return TinySegmenter(ModelConfig("tiny", "none"), generic(labels))


def test_a_model_upsamples_and_cuts_its_own_padding() -> None:
    model = tiny_model()  # pads to multiples of 8
    images, labels = torch.rand(1, 3, 9, 13), torch.randint(3, (1, 9, 13))
    output = model(images)
    _, parts = segmentation_loss(output, labels, model)
    expected = cross_entropy(model.upsample(output.coarse, (9, 13)), labels)
    torch.testing.assert_close(parts["P0"], expected.detach())
    resizing = segmentation_loss(output, labels).parts["P0"]
    assert not torch.equal(parts["P0"], resizing)  # without the model nothing is cut


def test_a_refiners_own_losses_are_added() -> None:
    seen = []

    class WithLoss(Refiner):
        def losses(self, aux: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
            seen.append((aux["extra"].dtype, labels))
            return {"extra": aux["extra"].mean()}

    model = tiny_model()
    model.refiner = WithLoss()
    labels = make_labels()[:1, :, :5]
    logits = torch.randn(1, 3, 8, 5)
    extra = torch.full((1,), 3.0, dtype=torch.bfloat16, requires_grad=True)
    output = pna.SegmenterOutput(logits, logits, [], {"extra": extra})
    total, parts = segmentation_loss(output, labels, model, LossConfig(refiner=0.5))
    assert parts["extra"] == 3.0
    torch.testing.assert_close(total.detach(), parts["P0"] + 1.5)
    [(dtype, padded)] = seen
    assert dtype == torch.float32
    assert torch.equal(padded[..., :5], labels)
    assert (padded[..., 5:] == 255).all()
    part = segmentation_loss(output, labels, model, num_valid=4 * int(count_valid(labels))).parts
    assert part["extra"] == 3.0 / 4  # a quarter of the whole


def test_outputs_of_weight_zero_are_left_out() -> None:
    _, parts = segmentation_loss(
        make_output(), make_labels(), config=LossConfig(coarse=0.0, aux=0.0)
    )
    assert list(parts) == ["P1", "P2"]


def test_kinds_are_chosen_for_coarse_and_stages_apart() -> None:
    output, labels = make_output(), make_labels()
    config = LossConfig(coarse_kind="hard_pixels", hard_share=0.25)
    _, parts = segmentation_loss(output, labels, config=config)
    hard = hard_pixel_cross_entropy(resized(output.coarse), labels, share=0.25)
    torch.testing.assert_close(parts["P0"], hard.detach())
    torch.testing.assert_close(
        parts["P1"], cross_entropy(resized(output.stages[0]), labels).detach()
    )


def test_half_precision_logits_are_scored_in_float32() -> None:
    output, labels = make_output(dtype=torch.bfloat16), make_labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, parts = segmentation_loss(output, labels)
    assert total.dtype == torch.float32
    expected = pixel_losses(resized(output.stages[-1].float()), labels).mean()
    assert float(parts["P2"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("class_weights", [None, (1.0, 0.5, 3.0)])
def test_parts_of_a_whole_add_up_to_it(class_weights: tuple[float, ...] | None) -> None:
    """Two images with unlike numbers of valid pixels: losses and gradients, in float64."""
    output, labels = make_output(dtype=torch.float64), make_labels()
    labels[1, :6] = 255
    config = LossConfig(class_weights=class_weights)
    whole, terms = segmentation_loss(output, labels, config=config)
    leaves = [output.coarse, *output.stages, output.aux["aux"]]
    expected = torch.autograd.grad(whole, leaves, retain_graph=True)
    num_valid = float(count_valid(labels, class_weights))
    parts = [
        segmentation_loss(part_of(output, i), labels[i : i + 1], None, config, num_valid=num_valid)
        for i in range(2)
    ]
    assert whole.dtype == torch.float64
    for name, value in terms.items():
        torch.testing.assert_close(sum(part.parts[name] for part in parts), value)
    found = torch.autograd.grad(parts[0].total + parts[1].total, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def part_of(output: pna.SegmenterOutput, index: int) -> pna.SegmenterOutput:
    """The output for one of the images, on the same graph."""
    part = slice(index, index + 1)
    stages, aux = [x[part] for x in output.stages], {k: x[part] for k, x in output.aux.items()}
    return pna.SegmenterOutput(output.logits[part], output.coarse[part], stages, aux)


def test_one_channel_is_refused() -> None:
    output = make_output(num_classes=1)
    with pytest.raises(pna.PnaError, match=r"^expected logits of 2 classes or more, got 1 channel"):
        segmentation_loss(output, torch.zeros(2, 8, 8).long())


@pytest.mark.parametrize(
    ("labels", "config", "message"),
    [
        (torch.zeros(2, 8, 8), {}, r"^expected labels \(2, H, W\) int64, got \(2, 8, 8\) .*float"),
        (torch.zeros(2, 1, 8, 8).long(), {}, r"^expected labels \(2, H, W\) int64, got \(2, 1"),
        (make_labels(), {"class_weights": (1.0,)}, r"^expected 3 class_weights, one per class"),
        (make_labels() * 0 + 3, {}, r"^expected labels of 0 to 2, or 255 .*, got \[3\]"),
        (make_labels() * 0 - 100, {"class_weights": (1.0, 1, 1)}, r"^expected labels .*\[-100\]"),
    ],
)
def test_labels_that_do_not_fit(labels: Tensor, config: dict[str, object], message: str) -> None:
    with pytest.raises(pna.PnaError, match=message):
        segmentation_loss(make_output(), labels, config=LossConfig(**config))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stage": -0.1}, "^expected a weight stage of 0 or more, got -0.1"),
        ({"hard_share": 0.0}, r"^expected hard_share in \(0, 1\], got 0"),
        ({"coarse_kind": "focal"}, "^expected coarse_kind to be cross_entropy or hard_pixels"),
        ({"class_weights": (0.0, 0.0)}, "^expected class_weights of 0 or more, one of them above"),
    ],
)
def test_weights_out_of_range(values: dict[str, object], message: str) -> None:
    with pytest.raises(pna.PnaError, match=message):
        LossConfig(**values)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_loss_needs_torch_alone_and_the_rest_says_what_it_needs() -> None:
    code = """
import sys
for name in ("accelerate", "pydantic", "yaml", "rich", "matplotlib"):
    sys.modules[name] = None  # as if it were not installed
import pna
import pna.train
pna.segmentation_loss, pna.train.LossConfig
try:
    pna.train.load_recipe
except pna.PnaError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message = "pna.train.load_recipe needs yaml, which is not installed: pip install 'pna[train]'"
    assert done.stdout.strip() == message
