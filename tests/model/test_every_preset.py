"""What holds for every preset: it survives a save, a copy, a pickle and half precision."""

import copy
import pickle

import pytest
import torch

import pna
from pna import ModelOptions, PNAConfig
from pna.model.presets import PRESETS

SMALL = PNAConfig(widths=(32, 32, 32, 32), window=3)


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


def _logits(model, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        return model(torch.rand(1, 3, 70, 50, generator=generator).to(dtype)).logits


def test_a_saved_model_gives_the_same_logits(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = pna.load(tmp_path)
    assert again.config == model.config
    torch.testing.assert_close(_logits(again), _logits(model), rtol=0, atol=0)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_gives_the_same_logits(model, how):
    torch.testing.assert_close(_logits(how(model)), _logits(model), rtol=0, atol=0)


def test_half_precision(model):
    half = _logits(copy.deepcopy(model).bfloat16(), torch.bfloat16)
    assert half.dtype == torch.bfloat16
    error = (half.float() - _logits(model)).norm() / _logits(model).norm()
    assert 0 < error < 0.1


def test_a_training_step_reaches_every_weight(model):
    trained = copy.deepcopy(model).train()
    output = trained(torch.rand(2, 3, 70, 50))
    assert len(output.stages) == trained.num_stages
    logits = [output.coarse, *output.stages, *output.aux.values()]
    sum(x.square().mean() for x in logits).backward()
    without = [name for name, p in trained.named_parameters() if p.grad is None]
    assert without == []
