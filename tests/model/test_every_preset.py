"""What holds for every preset: the contract of models, copies, pickles and half precision."""

import copy
import pickle

import pytest
import torch

import pna
from model_contract import ModelContract
from pna import ModelOptions, PNAConfig
from pna.model.presets import PRESETS

SMALL = PNAConfig(widths=(32, 32, 32, 32), window=3)


def _logits(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        return model(torch.rand(1, 3, 70, 50, generator=generator).to(dtype)).logits


@pytest.fixture(scope="module", params=PRESETS)
def model(request):
    """The preset on a small encoder, its batch norm fitted to noise as after a training."""
    torch.manual_seed(0)
    preset = PRESETS[request.param]
    model = pna.create_model(
        request.param,
        3,
        encoder="resnet18" if preset.options.output_stride else "test_resnet",
        encoder_weights=None,
        pna=SMALL if preset.pna else None,
        options=ModelOptions(coarse_channels=8),
    )
    with torch.no_grad():
        for _ in range(5):
            model.train()(torch.rand(2, 3, 70, 50))
    return model.eval()


class TestPresets(ModelContract):
    @pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_a_copy_gives_the_same_logits(self, model, how):
        torch.testing.assert_close(_logits(how(model)), _logits(model), rtol=0, atol=0)

    def test_half_precision(self, model):
        half = _logits(copy.deepcopy(model).bfloat16(), torch.bfloat16)
        assert half.dtype == torch.bfloat16
        error = (half.float() - _logits(model)).norm() / _logits(model).norm()
        assert 0 < error < 0.1
