"""A refiner behind a trained model leaves that model as it is, whatever it is made of."""

import torch

import pna
from pna.model.rivals.chain import behind
from pna.model.rivals.dense_crf import DenseCRF
from wrapped_networks import K, Plain


@torch.inference_mode()
def test_behind_a_cascade():
    model = pna.cascade(Plain(), K, widths=(32, 32, 32), window=3).eval()
    pictures = torch.rand(1, 3, 32, 48)
    before = model(pictures, stages=True)
    built = behind(model, DenseCRF())
    assert built.num_stages == 4
    found = built(pictures, stages=True)
    torch.testing.assert_close(found.stages[2], before.stages[2])
    assert len(model(pictures, stages=True).stages) == 3


@torch.inference_mode()
def test_behind_a_model_with_a_neck():
    model = pna.create_model("fpn-pointrend", encoder="resnet18", num_classes=3, pretrained=False)
    model.eval()
    assert model.neck is not None
    pictures = torch.rand(1, 3, 64, 64)
    built = behind(model, DenseCRF())
    torch.testing.assert_close(built(pictures).coarse, model(pictures).coarse)
