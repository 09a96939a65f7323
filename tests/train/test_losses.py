from types import SimpleNamespace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pna.train.losses import (
    FEWEST_AS_ROWS,
    Scope,
    count_valid,
    cross_entropy,
    find_cuts,
    hard_pixel_cross_entropy,
    hard_pixel_losses,
    segmentation_loss,
)
from pna.train.recipe import LossSection


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def make_output(*, num_stages: int = 2, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    """Outputs of three classes at strides 4, 4, 2, ... for 8 x 8 pictures."""
    torch.manual_seed(0)
    sides = [2, *([4] * num_stages)]
    coarse, *stages = [torch.randn(2, 3, s, s, dtype=dtype).requires_grad_() for s in sides]
    return SimpleNamespace(
        logits=upsample([coarse, *stages][-1], (8, 8)),
        coarse=coarse,
        stages=stages,
        aux={"aux": torch.randn(2, 3, 4, 4, dtype=dtype).requires_grad_()},
    )


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


@pytest.mark.parametrize("loss", [cross_entropy, hard_pixel_cross_entropy])
def test_nothing_valid_gives_zero_with_a_graph(loss) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), 255))
    value.backward()
    assert float(value.detach()) == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_total_is_the_weighted_sum_of_the_parts_at_full_size() -> None:
    output, labels = make_output(), make_labels()
    weights = LossSection(coarse=1.0, stage=0.1, aux=0.4)
    total, parts = segmentation_loss(output, labels, upsample, weights)  # type: ignore[arg-type]
    assert list(parts) == ["P0", "P1", "P2", "aux"]
    for name, logits in {"P0": output.coarse, "P1": output.stages[0]}.items():
        expected = pixel_losses(upsample(logits, (8, 8)), labels).mean()
        assert float(parts[name]) == pytest.approx(float(expected), rel=1e-5)
    expected = parts["P0"] + 0.1 * (parts["P1"] + parts["P2"]) + 0.4 * parts["aux"]
    torch.testing.assert_close(total.detach(), expected)


def test_gradients_reach_every_output() -> None:
    output = make_output()
    total, parts = segmentation_loss(output, make_labels(), upsample, LossSection())  # type: ignore[arg-type]
    total.backward()
    assert all(x.grad.any() for x in [output.coarse, *output.stages, output.aux["aux"]])
    assert not any(part.requires_grad for part in parts.values())


def test_the_model_has_upsampled_its_last_stage_already() -> None:
    sizes = []

    def recording(logits: Tensor, size: tuple[int, int]) -> Tensor:
        sizes.append(logits.shape[-1])
        return upsample(logits, size)

    output = make_output(num_stages=3)
    segmentation_loss(output, make_labels(), recording, LossSection())  # type: ignore[arg-type]
    assert sizes == [2, 4, 4, 4]  # P0, P1, P2 and the auxiliary one


def test_outputs_of_weight_zero_are_left_out() -> None:
    _, parts = segmentation_loss(
        make_output(),  # type: ignore[arg-type]
        make_labels(),
        upsample,
        LossSection(coarse=0.0, aux=0.0),
    )
    assert list(parts) == ["P1", "P2"]


def test_kinds_are_chosen_for_coarse_and_stages_apart() -> None:
    output, labels = make_output(), make_labels()
    weights = LossSection(coarse_kind="hard_pixels", hard_share=0.25)
    _, parts = segmentation_loss(output, labels, upsample, weights)  # type: ignore[arg-type]
    hard = hard_pixel_cross_entropy(upsample(output.coarse, (8, 8)), labels, share=0.25)
    torch.testing.assert_close(parts["P0"], hard.detach())
    plain = cross_entropy(upsample(output.stages[0], (8, 8)), labels)
    torch.testing.assert_close(parts["P1"], plain.detach())


def test_half_precision_logits_are_scored_in_float32() -> None:
    output, labels = make_output(dtype=torch.bfloat16), make_labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, parts = segmentation_loss(output, labels, upsample, LossSection())  # type: ignore[arg-type]
    assert total.dtype == torch.float32
    expected = pixel_losses(upsample(output.stages[-1].float(), (8, 8)), labels).mean()
    assert float(parts["P2"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", ["cross_entropy", "hard_pixels"])
def test_parts_of_a_scope_add_up_to_the_whole(
    kind: Literal["cross_entropy", "hard_pixels"],
) -> None:
    """Two pictures with unlike numbers of valid pixels: losses and gradients, in float64."""
    output, labels = make_output(dtype=torch.float64), make_labels()
    labels[1, :6] = 255
    weights = LossSection(coarse_kind=kind, stage_kind=kind)
    whole, terms = segmentation_loss(output, labels, upsample, weights)  # type: ignore[arg-type]
    leaves = [output.coarse, *output.stages, output.aux["aux"]]
    expected = torch.autograd.grad(whole, leaves)
    output = make_output(dtype=torch.float64)
    halves = [(part_of(output, i), labels[i : i + 1]) for i in range(2)]
    scope = Scope(int(count_valid(labels)))
    ahead = [hard_pixel_losses(out, y, upsample, weights) for out, y in halves]  # type: ignore[arg-type]
    scope = scope._replace(cuts=find_cuts(ahead, weights, scope))
    parts = [segmentation_loss(out, y, upsample, weights, scope=scope) for out, y in halves]  # type: ignore[arg-type]
    assert whole.dtype == torch.float64
    for name, value in terms.items():
        torch.testing.assert_close(sum(part[1][name] for part in parts), value)
    leaves = [output.coarse, *output.stages, output.aux["aux"]]
    found = torch.autograd.grad(parts[0][0] + parts[1][0], leaves)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def part_of(output: SimpleNamespace, index: int) -> SimpleNamespace:
    """The output for one of the pictures, on the same graph."""
    part = slice(index, index + 1)
    return SimpleNamespace(
        logits=output.logits[part],
        coarse=output.coarse[part],
        stages=[x[part] for x in output.stages],
        aux={name: x[part] for name, x in output.aux.items()},
    )
