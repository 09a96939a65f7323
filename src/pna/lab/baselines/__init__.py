"""Baselines: other refinements and decoders, one file each, with its losses and its sources."""

from collections.abc import Mapping
from functools import partial

from pna.lab.baselines.crf import build_fcn_crf
from pna.lab.baselines.decoder import build_fcn_decoder, build_fcn_decoder_features
from pna.lab.baselines.eblnet import build_eblnet
from pna.lab.baselines.fapn import build_fapn
from pna.lab.baselines.glnet import build_glnet
from pna.lab.baselines.isdnet import build_isdnet
from pna.lab.baselines.magnet import build_magnet
from pna.lab.baselines.pointrend import build_deeplabv3_pointrend, build_fpn_pointrend
from pna.lab.baselines.segfix import build_fcn_segfix
from pna.lab.baselines.translab import build_translab
from pna.model import presets
from pna.model.config import ModelOptions
from pna.model.pna.config import PNAConfig
from pna.model.presets import LITE_ENCODER, LITE_OPTIONS, LITE_PNA, Preset

_NO_AUX = ModelOptions(aux=False)

PRESETS: Mapping[str, Preset] = {
    **presets.PRESETS,
    "fcn-crf": Preset(build_fcn_crf),
    # As in their papers: PointRend at stride 4 on a feature pyramid, and on an encoder of output
    # stride 16; EBLNet on DeepLabV3's pyramid, with its own width.
    "fpn-pointrend": Preset(build_fpn_pointrend, options=_NO_AUX),
    "deeplabv3-pointrend": Preset(
        build_deeplabv3_pointrend,
        options=ModelOptions(output_stride=16, rates=(6, 12, 18), aux=True),
    ),
    "eblnet": Preset(
        build_eblnet, options=ModelOptions(output_stride=8, coarse_channels=256, aux=False)
    ),
    "fapn": Preset(build_fapn, options=_NO_AUX),
    # A decoder has as many parameters as the PNA head of the same options.
    "fcn-decoder": Preset(build_fcn_decoder, pna=PNAConfig.released()),
    "lite-decoder": Preset(build_fcn_decoder, LITE_ENCODER, LITE_OPTIONS, LITE_PNA),
    "lite-decoder-features": Preset(
        build_fcn_decoder_features, LITE_ENCODER, LITE_OPTIONS, LITE_PNA
    ),
    "fcn-segfix": Preset(build_fcn_segfix),
    # For large images; in the paper's tables with ResNet-50, ISDNet with ResNet-18. A patch is a
    # fifth or a quarter of a side, as on DeepGlobe; of small images it is a third.
    "glnet": Preset(build_glnet, "resnet50", options=_NO_AUX),
    "glnet-thirds": Preset(partial(build_glnet, ratio=3), "resnet50", options=_NO_AUX),
    "magnet": Preset(build_magnet, "resnet50", options=_NO_AUX),
    "magnet-thirds": Preset(partial(build_magnet, scales=(2, 3)), "resnet50", options=_NO_AUX),
    "isdnet": Preset(
        build_isdnet,
        "resnet18",
        options=ModelOptions(output_stride=8, coarse_channels=128, rates=(12, 24, 36), aux=True),
    ),
    "translab": Preset(
        build_translab,
        options=ModelOptions(output_stride=16, coarse_channels=256, rates=(6, 12, 18), aux=False),
    ),
}
"""The library's presets and the baselines; pass it as `presets=` to `pna.create_model`, `pna.load`
and `pna.train`."""
