"""Every kind of network that is promised: found right, started right, trained, saved, compiled."""

from dataclasses import replace

import pytest
import torch

import pna
from wrapped_networks import CASES, K

SMALL = pna.PNAConfig.for_cascade()
SIZE = (96, 160)
ODD = (33, 47)


def wrap(case):
    torch.manual_seed(0)
    config = replace(SMALL, widths=(32,) * len(case.strides))
    return pna.cascade(case.build(), K, normalize=None, pna=config, **case.options)


def name_of_case(name):
    return pytest.param(name, marks=[pytest.mark.slow] * CASES[name].is_huge)


@pytest.fixture(scope="module", params=map(name_of_case, CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case):
    return wrap(case).eval()


def own_prediction(model, case, images):
    """The output of the wrapped network, brought to the images' size."""
    output = model.base(images)
    if "coarse" in case.options:
        output = case.options["coarse"](output)
    elif not isinstance(output, torch.Tensor):
        output = output["out" if "out" in output else "logits"]
    return model.upsample(output, images.shape[-2:])


def test_what_is_found(model, case):
    assert model.strides == case.strides
    assert model.coarse_from == case.coarse_from
    assert model.coarse_stride == case.coarse_stride
    assert model.divisor == case.divisor
    assert f"(stride {case.coarse_stride})" in repr(model)


@torch.inference_mode()
def test_it_starts_from_the_network(model, case):
    """Logits are gathered from the network's, and classifiers begin near zero."""
    images = torch.rand(1, 3, *SIZE)
    own = own_prediction(model, case, images)
    output = model(images, stages=True)
    torch.testing.assert_close(model.upsample(output.coarse, SIZE), own, rtol=1e-3, atol=1e-3)
    assert len(output.stages) == len(case.strides)
    low, high = (f(output.coarse, (2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    assert (output.logits > low - 0.05).all()
    assert (output.logits < high + 0.05).all()
    # A P0 that is finer than the stages comes back as it is.
    if output.coarse.shape[-2] >= output.stages[-1].shape[-2] > output.stages[0].shape[-2]:
        torch.testing.assert_close(output.logits, own, rtol=0, atol=0.05)


@torch.inference_mode()
def test_any_size(model):
    for size in ((1, 1), ODD):
        output = model(torch.rand(1, 3, *size), stages=True)
        assert output.logits.shape == (1, K, *size)
        for logits in (output.coarse, *output.stages):
            assert model.upsample(logits, size).shape == (1, K, *size)


def test_a_step(case):
    model = wrap(case).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    output = model(torch.rand(2, 3, *ODD))
    labels = torch.randint(0, K, (2, *ODD))
    pna.segmentation_loss(output, labels, model).total.backward()
    optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert all(f"refiner.{name}" in changed for name, _ in model.refiner.named_parameters())
    first = next(name for name, p in model.base.named_parameters() if p.ndim == 4)
    assert f"base.{first}" in changed  # gradients reach the network's first convolution


@torch.inference_mode()
def test_saved_and_loaded(model, case, tmp_path):
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    loaded = pna.load(tmp_path, network=case.build(), coarse=case.options.get("coarse"))
    assert loaded.origin == model.origin
    images = torch.rand(1, 3, *ODD)
    torch.testing.assert_close(loaded(images).logits, model(images).logits)


@pytest.mark.slow
@torch.inference_mode()
def test_compiled(model):
    """Hooks are traced too; the backend that runs what is traced as it is takes least time."""
    images = torch.rand(1, 3, *ODD)
    expected = model(images).logits
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager")(images).logits, expected)
