"""Static quantization of an ONNX file to int8, and what it costs.

Weights of convolutions and linear layers become 8-bit integers, one scale per channel; activations
get the range that they have on the calibration images. Attention, softmax and layer norm stay in
float32. Done by ONNX Runtime (Q/DQ nodes), which other runtimes read too.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pna.data.images import ImageLike, read_image
from pna.errors import PnaError
from pna.export.description import KEY, Description
from pna.export.session import Session
from pna.extras import require
from pna.metrics.confusion import confusion_matrix
from pna.model.segmenter import BaseSegmenter


@dataclass(frozen=True)
class Int8Loss:
    """The int8 file against the float32 one, on the calibration images.

    Attributes:
        agreement: Share of pixels with the same class.
        miou: Mean IoU of the int8 labels, with the float32 labels as the truth, over the classes
            that occur in either.
        num_images: Number of images.
    """

    agreement: float
    miou: float
    num_images: int

    def __str__(self) -> str:
        """For example "12 images: labels equal 98.71 %, mIoU against float32 95.2 %"."""
        labels = f"labels equal {100 * self.agreement:.2f} %"
        miou = f"mIoU against float32 {100 * self.miou:.1f} %"
        return f"{self.num_images} images: {labels}, {miou}"


def calibration_tensors(
    images: Sequence[ImageLike], model: BaseSegmenter, size: tuple[int, int] | None
) -> list[Tensor]:
    """Read calibration images as the file will see them: (1, 3, H, W) float32 in [0, 1].

    Args:
        images: As `pna.Predictor` takes them; resized to the model's `inference_size`.
        model: The model that is exported.
        size: Height and width that the file is fixed to.

    Raises:
        PnaError: The model takes other images than RGB, or an image has another size than the file.
    """
    channels = len(model.mean)
    if channels != 3:
        raise PnaError(
            f"calibration images are RGB, and the model takes {channels} channels: int8 is not for "
            "it, export it in float32 or float16"
        )
    tensors = []
    for number, image in enumerate(images, start=1):
        pixels = torch.from_numpy(read_image(image)).permute(2, 0, 1)[None]
        tensor = model.resize_images(pixels).float() / 255
        H, W = tensor.shape[-2:]
        if size is not None and size != (H, W):
            raise PnaError(
                f"calibration image {number}: expected {size[0]}x{size[1]}, the size of the file, "
                f"got {H}x{W}: resize it"
            )
        tensors.append(tensor)
    return tensors


def quantize(
    whole: Path, file: Path, images: Sequence[Tensor], description: Description
) -> Int8Loss:
    """Write the int8 form of an ONNX file, and compare both on the calibration images.

    Args:
        whole: The file in float32.
        file: The file to write.
        images: (1, C, H, W) float32 each.
        description: The text for the new file.
    """
    onnx, quantization = require("onnx"), require("onnxruntime.quantization")
    base: Any = quantization.CalibrationDataReader
    (name,) = description.inputs

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {name: image.numpy()}

    with _without_advice():
        quantization.quantize_static(
            whole,
            file,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            # Products of 8-bit numbers overflow the 16-bit sums of CPUs without VNNI: 7 bits fit.
            reduce_range=True,
            # Products of two activations are attention's.
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(file)
    onnx.helper.set_model_props(model, {KEY: description.to_json()})
    onnx.save(model, file)
    return _loss(Session(whole), Session(file), images)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keep the quantizer's advice to optimize the file first, which the exporter did, from view."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _loss(whole: Session, small: Session, images: Sequence[Tensor]) -> Int8Loss:
    labels = whole.description.labels
    assert labels is not None
    K = labels.num_classes
    matrix = torch.zeros(K, K, dtype=torch.int64)
    for image in images:
        truth, found = (session.run([image])[0].argmax(1) for session in (whole, small))
        matrix += confusion_matrix(found, truth, K)
    counts = matrix.numpy().astype(np.float64)
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    occurs = union > 0
    miou = float((right[occurs] / union[occurs]).mean())
    return Int8Loss(float(right.sum() / counts.sum()), miou, len(images))
