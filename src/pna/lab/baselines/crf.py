"""FCN refined by the fully connected CRF (`pna.dense_crf`), which has nothing to train.

Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials" (NeurIPS 2011); after a network as in Chen et al., "DeepLab" (TPAMI 40(4), 2018),
section 3.3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.labels import LabelSpace
from pna.model.coarse.fcn import FCNHead
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import allow_head_options, assemble, build_encoder, coarse_width
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.segmenter import Segmenter


class DenseCRF(Refiner):
    """Sharpen a prediction along the image's edges, with the default numbers of `pna.dense_crf`.

    It runs on the CPU, has no gradients, and makes no stage in training.
    """

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Infer log-probabilities P1 (B, K, H, W) at the size of the padded images.

        Raises:
            PnaError: The model is being exported.
        """
        if torch.compiler.is_exporting():
            raise PnaError(
                "the dense CRF is compiled by numba, so an exported graph cannot hold it; export "
                "the model without it"
            )
        assert images is not None
        logits = resize(coarse.detach(), images.shape[-2:])
        return [_infer(logits, images.detach())]

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Return no stage: there is nothing to train."""
        return RefinerOutput([], {})


# One opaque operator for `torch.compile` and for counting on the meta device.
@torch.library.custom_op("pna_lab::dense_crf", mutates_args=())
def _infer(logits: Tensor, images: Tensor) -> Tensor:
    from pna.refinement.dense_crf import dense_crf

    refined = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for n, image in enumerate(images.float().cpu()):
        pixels = (255 * image).round().byte().permute(1, 2, 0).contiguous().numpy()  # (H, W, 3)
        probabilities = dense_crf(pixels, logits[n].float().softmax(0).cpu().numpy())
        # A probability of 0 has no finite logarithm, and the logits are interpolated.
        refined[n] = torch.from_numpy(probabilities).clamp(min=1e-20).log()
    return refined


@_infer.register_fake
def _(logits: Tensor, images: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def build_fcn_crf(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build an FCN refined by the dense CRF.

    Raises:
        PnaError: The images are of other bands than RGB, whose distance in color has no measure.
    """
    if config.options.bands is not None:
        raise PnaError("the dense CRF compares colors: it takes RGB, got options.bands")
    allow_head_options(config)
    encoder = build_encoder(config, weights)
    coarse = FCNHead(encoder.channels, labels.num_classes, **coarse_width(config))
    return assemble(config, labels, encoder, coarse, refiner=DenseCRF())
