"""Every kind of network that is promised: found right, started right, trained, saved, compiled."""

from dataclasses import replace

import pytest
import torch

import pna
from model_contract import ModelContract
from wrapped_networks import CASES, K

SMALL = pna.PNAConfig.for_cascade()
SIZE = (96, 160)


def wrap(case):
    torch.manual_seed(0)
    config = replace(SMALL, widths=(32,) * len(case.strides))
    return pna.cascade(case.build(), K, normalize=None, pna=config, **case.options)


def name_of_case(name):
    return pytest.param(name, marks=[pytest.mark.slow] * CASES[name].is_huge)


def own_prediction(model, case, images):
    """The output of the wrapped network, brought to the images' size."""
    output = model.base(images)
    if "coarse" in case.options:
        output = case.options["coarse"](output)
    elif not isinstance(output, torch.Tensor):
        output = output["out" if "out" in output else "logits"]
    return model.upsample(output, images.shape[-2:])


@pytest.fixture(scope="module", params=map(name_of_case, CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def model(case):
    return wrap(case).eval()


class TestCascades(ModelContract):
    def load(self, path_or_name, request):
        """Read it back, around the same network built anew."""
        case = request.getfixturevalue("case")
        torch.manual_seed(1)
        coarse = case.options.get("coarse")
        return pna.load(path_or_name, network=case.build(), coarse=coarse)

    def reached(self, model):
        """All of the refinement, and the network's first convolution."""
        first = next(name for name, p in model.base.named_parameters() if p.ndim == 4)
        return {f"refiner.{name}" for name, _ in model.refiner.named_parameters()} | {
            f"base.{first}"
        }

    def test_what_is_found(self, model, case):
        assert model.strides == case.strides
        assert model.coarse_from == case.coarse_from
        assert model.coarse_stride == case.coarse_stride
        assert model.divisor == case.divisor
        assert f"(stride {case.coarse_stride})" in repr(model)

    @torch.inference_mode()
    def test_it_starts_from_the_network(self, model, case):
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
