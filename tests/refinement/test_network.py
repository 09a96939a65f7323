import pytest
import torch

from pna.model.resize import average, resize
from pna.refinement.network import MOST_SURE, MaskStage, create_mask_refiner, to_logits


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = create_mask_refiner(encoder_weights=None)
    for stage in network.stages:
        torch.nn.init.normal_(stage.classifier.weight, std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(1)
    return torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96)


def test_stages_go_from_stride_32_to_1(network, inputs):
    results = network(*inputs)
    strides = [64 // result.logits.shape[2] for result in results]
    assert strides == [32, 16, 8, 4, 2, 1]
    assert all(result.logits.shape[:2] == (2, 3) for result in results)
    assert [result.neighborhood is None for result in results] == [True, *[False] * 5]


def test_classes_do_not_depend_on_each_other(network, inputs):
    images, masks = inputs
    with torch.no_grad():
        together = network(images, masks)
        for k in range(3):
            alone = network(images, masks[:, k : k + 1])
            for one, other in zip(together, alone, strict=True):
                torch.testing.assert_close(
                    one.logits[:, k : k + 1], other.logits, atol=1e-4, rtol=1e-4
                )


def test_outside_of_its_box_a_mask_stays(network, inputs):
    images, masks = inputs
    boxes = [(slice(0, 1), slice(1, 3)), (slice(0, 2), slice(0, 3)), (slice(1, 2), slice(0, 1))]
    with torch.no_grad():
        results = network(images, masks, boxes)
    given = to_logits(masks)
    for k, (rows, cols) in enumerate(boxes):
        is_inside = torch.zeros(64, 96, dtype=torch.bool)
        is_inside[rows.start * 32 : rows.stop * 32, cols.start * 32 : cols.stop * 32] = True
        change = (results[-1].logits[:, k] - given[:, k]).abs()
        assert (change[:, ~is_inside] == 0).all()
        assert change[:, is_inside].mean() > 0.01


def test_a_refined_mask_is_the_mean_of_two_sizes(network):
    torch.manual_seed(1)
    images, masks = torch.rand(1, 3, 128, 192), torch.rand(1, 2, 128, 192)
    boxes = [(slice(0, 1), slice(1, 3)), (slice(0, 2), slice(0, 3))]
    cells_of_32 = [(slice(0, 2), slice(2, 6)), (slice(0, 4), slice(0, 6))]
    with torch.no_grad():
        network.temperature.fill_(1.5)
        refined = network.refine(images, masks, boxes)
        full = network(images, masks, cells_of_32)[-1].logits
        half = network(average(images, (64, 96)), average(masks, (64, 96)), boxes)[-1].logits
        network.temperature.fill_(1)
    both = full, resize(half, (128, 192))
    expected = sum((logits / 1.5).sigmoid() for logits in both) / 2
    torch.testing.assert_close(refined, expected, atol=1e-5, rtol=1e-5)
    assert network.divisor == 64


def test_a_stage_that_trusts_the_mask_returns_it(inputs):
    torch.manual_seed(0)
    network = create_mask_refiner(encoder_weights=None).eval()
    for stage in network.stages:
        torch.nn.init.zeros_(stage.classifier.weight)
        stage.classifier.bias.data = torch.tensor([0.0, 50.0])
    images, masks = inputs
    with torch.no_grad():
        final = network(images, masks)[-1].logits
    torch.testing.assert_close(final, to_logits(masks), atol=1e-4, rtol=0)


def test_a_stage_that_trusts_the_coarser_logits_gathers_them():
    torch.manual_seed(0)
    stage = MaskStage(4, 8, handed_on=6, window=3, depth=1)
    torch.nn.init.zeros_(stage.classifier.weight)
    stage.classifier.bias.data = torch.tensor([0.0, -50.0])
    f, given = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 8, 1)
    carried, _ = stage.gather(f, torch.randn(1, 4, 4, 1), torch.rand(1, 8, 8, 3))
    logits, handed_on = stage.correct(f, given, carried, torch.randn(1, 4, 4, 6))
    torch.testing.assert_close(logits, carried)
    assert handed_on.shape == f.shape


def test_every_parameter_learns(inputs):
    torch.manual_seed(0)
    network = create_mask_refiner(encoder_weights=None)
    results = network(*inputs)
    sum((result.logits * torch.randn_like(result.logits)).sum() for result in results).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_logits_are_no_surer_than_the_limit():
    logits = to_logits(torch.tensor([0.0, 0.5, 0.9, 1.0]))
    torch.testing.assert_close(
        logits, torch.tensor([-MOST_SURE, 0.0, 2.1972, MOST_SURE]), atol=1e-3, rtol=0
    )
