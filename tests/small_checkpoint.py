"""A small model, and its state dict under the names of the authors' mmsegmentation branch."""

from dataclasses import replace

import torch

import pna
import whole_checkpoints
from pna import ModelOptions, PNAConfig
from pna.model.checkpoints.encoders import mm_encoder
from pna.model.checkpoints.heads import mm_auxiliary_name, mm_head
from pna.model.checkpoints.refinement import read_refinement


def small_model(num_classes=3):
    """An FCN on the smallest encoder of the authors, refined; random weights."""
    torch.manual_seed(0)
    return pna.create_model(
        "fcn-pna",
        num_classes,
        encoder="resnet50c",
        encoder_weights=None,
        pna=replace(PNAConfig.released(), widths=(32, 32, 32, 32), window=3),
        options=ModelOptions(coarse_channels=32, padding="none"),
    ).eval()


def state_of(model):
    """Its tensors as mmsegmentation names them."""
    case = whole_checkpoints.shapes_of(whole_checkpoints.read_case("mm_fcn_r50_d32_voc"))
    names = {
        "encoder": mm_encoder(case).rename,
        "coarse": mm_head(case, "decode_head.0.").rename,
        "refiner": read_refinement(case, "decode_head.1.", "nearest").rename,
        "auxiliary": mm_auxiliary_name,
    }
    renamed = {}
    for key, tensor in model.state_dict().items():
        part, _, rest = key.partition(".")
        renamed[names[part](rest)] = tensor
    return renamed
