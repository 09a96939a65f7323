"""The dense CRF as a baseline: `pna.dense_crf` on each image of a batch."""

import pytest
import torch

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.crf import DenseCRF
from pna.model.config import ModelOptions
from pna.model.counts import count
from pna.model.resize import resize
from pna.refinement.dense_crf import dense_crf

SMALL = {
    "encoder": "resnet18",
    "encoder_weights": None,
    "options": ModelOptions(coarse_channels=8, aux=False),
    "presets": PRESETS,
}


def test_it_is_dense_crf_of_each_image():
    torch.manual_seed(0)
    coarse, pixels = torch.randn(2, 3, 4, 5), torch.randint(256, (2, 3, 24, 30))
    (stage,) = DenseCRF()([], coarse, images=pixels / 255)
    logits = resize(coarse, (24, 30))
    for n in range(2):
        image = pixels[n].byte().permute(1, 2, 0).numpy()
        expected = torch.from_numpy(dense_crf(image, logits[n].softmax(0).numpy())).log()
        torch.testing.assert_close(stage[n], expected)


def test_it_sharpens_a_prediction_and_costs_nothing_counted():
    torch.manual_seed(0)
    model, plain = (pna.create_model(p, 3, **SMALL).eval() for p in ("fcn-crf", "fcn"))
    plain.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 40, 33)
    with torch.inference_mode():
        output = model(images, stages=True)
        assert torch.equal(output.coarse, plain(images).coarse)
    assert output.logits.shape == (1, 3, 40, 33)
    assert [stage.shape[-2:] for stage in output.stages] == [(64, 64)]
    totals = [sum(part.macs for part in count(m, (64, 64))) for m in (model, plain)]
    assert totals[0] == totals[1]


def test_training_makes_no_stage():
    output = pna.create_model("fcn-crf", 3, **SMALL).train()(torch.rand(2, 3, 64, 64))
    assert (output.stages, output.aux) == ([], {})
    assert output.logits.requires_grad


def test_an_exported_graph_cannot_hold_it():
    model = pna.create_model("fcn-crf", 3, **SMALL).eval()
    with pytest.raises(pna.PnaError, match=r"^the dense CRF is compiled by numba"):
        torch.export.export(model, (torch.rand(1, 3, 32, 32),))
