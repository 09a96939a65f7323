"""The normalization that a wrapped network was trained with, from records alone.

A library's record counts only if it is about the images themselves: a wrapper that normalizes
inside, and hands the result to a backbone of timm, must not have its images normalized twice.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.model.cascade.inputs import evaluation
from pna.model.config import SourceConfig

Channels = Sequence[float]
Normalize = Literal["auto", "imagenet"] | tuple[Channels, Channels] | None

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_REMEDY = (
    'pass normalize="imagenet", normalize=(mean, std) with a number per channel for images in '
    "[0, 1], or normalize=None for a network that takes images in [0, 1] as they are"
)

# Added to the message for networks of these packages that carry no record.
_HINTS = {
    "segmentation_models_pytorch": (
        ". It was built with encoder_weights=None; for pretrained encoders there is "
        "smp.encoders.get_preprocessing_params(ENCODER)"
    ),
    "torchvision": '. For all of torchvision\'s own weights it is "imagenet"',
    "transformers": (
        ". It was built from a configuration; AutoImageProcessor.from_pretrained(NAME) has the "
        "image_mean and image_std of pretrained ones"
    ),
}


class Normalization(NamedTuple):
    """How images in [0, 1] are normalized.

    Attributes:
        mean: Is subtracted, per channel.
        std: Divides the difference, per channel.
        origin: Where the two come from, in words.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str


class _Record(NamedTuple):
    """The normalization of the input of a part of a network, as its library keeps it."""

    module: str
    normalization: Normalization


def read_normalization(
    network: nn.Module, normalize: Normalize, images: Tensor, *, source: SourceConfig | None = None
) -> Normalization:
    """Return mean and standard deviation per channel, for images in [0, 1].

    Args:
        network: The network that is wrapped.
        normalize: "imagenet"; (mean, std); None for images as they are; "auto" reads the
            records of timm, segmentation_models_pytorch, transformers and torchvision.
        images: (1, C, H, W), any that the network takes: of its type, on its device.
        source: The name of the network, where it has one.

    Raises:
        PnaError: "auto", and there is no record, or there are two that differ; a value that is
            none of these; or a number of values that is not the network's number of channels.
    """
    channels = images.shape[1]
    if normalize is None:
        return Normalization((0.0,) * channels, (1.0,) * channels, "normalize=None")
    if isinstance(normalize, str) and normalize == "auto":
        found = _read_records(network, images, source)
    elif isinstance(normalize, str) and normalize == "imagenet":
        found = Normalization(*IMAGENET, 'normalize="imagenet"')
    else:
        found = _read_numbers(normalize)
    if len(found.mean) != channels:
        raise PnaError(
            f"{type(network).__name__} takes images of {channels} channels, but {found.origin} "
            f"has {len(found.mean)} values: pass normalize=(mean, std) with {channels} numbers "
            "each, or normalize=None"
        )
    return found


def _read_numbers(normalize: Any) -> Normalization:
    try:
        mean, std = (tuple(float(value) for value in values) for values in normalize)
    except (TypeError, ValueError):
        raise PnaError(
            'expected normalize="imagenet", (mean, std) with a number per channel, None or '
            f'"auto", got {normalize!r}'
        ) from None
    if not mean or len(mean) != len(std) or not all(value > 0 for value in std):
        raise PnaError(
            f"expected as many values in mean as in std, those above 0, got {mean} and {std}"
        )
    if max(map(abs, mean)) > 1:  # such as 123.675: the mean of bytes
        raise PnaError(
            f"expected a mean of images in [0, 1], got {mean}: divide mean and std by 255, if "
            "they are of images in 0..255"
        )
    return Normalization(mean, std, "normalize=(mean, std)")


def _read_records(network: nn.Module, images: Tensor, source: SourceConfig | None) -> Normalization:
    name = type(network).__name__
    records = list(_find_records(network))
    if source is not None and source.library == "torchvision":
        records.append(_Record("", _of_torchvision(source.name)))
    if not records:
        hint = _HINTS.get(type(network).__module__.partition(".")[0], "")
        raise PnaError(f"the normalization of images for {name} is not known: {_REMEDY}{hint}")
    values = {(r.normalization.mean, r.normalization.std) for r in records}
    if len(values) > 1:
        each = "; ".join(f"{r.normalization.origin}: {r.normalization[:2]}" for r in records)
        raise PnaError(f"{name} has parts of different normalizations ({each}): {_REMEDY}")
    for record in records:
        if not _gets(network, record.module, images):
            raise PnaError(
                f"{record.normalization.origin} is about the input of {record.module!r}, "
                f"but {name} changes the images before: {_REMEDY} (as it may normalize them itself)"
            )
    return records[0].normalization


def _find_records(network: nn.Module) -> Iterator[_Record]:
    """Yield the outermost records: that of a network stands above that of its backbone."""
    found_in: list[str] = []
    for name, module in network.named_modules():
        if any(name.startswith(f"{outer}.") or not outer for outer in found_in):
            continue
        found = _of_transformers(module) or _of_smp(module) or _of_timm(module)
        if found is not None:
            found_in.append(name)
            yield _Record(name, found)


def _of_timm(module: nn.Module) -> Normalization | None:
    config: Any = getattr(module, "pretrained_cfg", None)
    if not isinstance(config, dict) or not {"mean", "std"} <= config.keys():
        return None
    name = config.get("architecture", type(module).__name__)
    return Normalization(
        tuple(config["mean"]), tuple(config["std"]), f"timm's pretrained_cfg of {name}"
    )


def _of_smp(module: nn.Module) -> Normalization | None:
    # Not imported here: a network of a library has imported it already.
    smp = sys.modules.get("segmentation_models_pytorch")
    if smp is None or not isinstance(module, smp.base.SegmentationModel):
        return None
    # Where smp keeps the arguments that a network was built with, to write them beside its weights.
    arguments: dict[str, Any] = getattr(module, "_hub_mixin_config", None) or {}
    encoder, weights = arguments.get("encoder_name"), arguments.get("encoder_weights")
    if encoder is None or weights is None or encoder.startswith(("tu-", "timm-")):
        return None  # timm's own configuration is inside of the last two
    origin = f"smp's preprocessing parameters of {encoder} ({weights})"
    try:
        found = smp.encoders.get_preprocessing_params(encoder, weights)
    except (OSError, LookupError, ValueError) as error:  # the hub's errors are OSErrors
        raise PnaError(
            f"{origin} cannot be read ({type(error).__name__}: {error}): {_REMEDY}"
        ) from error
    _refuse_bgr(origin, found["input_space"] == "BGR")
    return _scaled(found["mean"], found["std"], max(found["input_range"]), origin)


def _of_transformers(module: nn.Module) -> Normalization | None:
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(module, transformers.PreTrainedModel):
        return None
    name = module.name_or_path
    if not name:  # built from a configuration
        return None
    origin = f"the image processor of {name}"
    try:
        processor: Any = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise PnaError(
            f"{origin} cannot be read ({type(error).__name__}: {error}): {_REMEDY}"
        ) from error
    _refuse_bgr(origin, bool(getattr(processor, "do_flip_channel_order", False)))
    scale = 255.0  # largest value of the images that mean and std are for
    if getattr(processor, "do_rescale", True):
        scale *= getattr(processor, "rescale_factor", 1 / 255)
    if not getattr(processor, "do_normalize", True):
        return _scaled((0.0,) * 3, (1.0,) * 3, scale, origin)
    return _scaled(processor.image_mean, processor.image_std, scale, origin)


def _of_torchvision(name: str) -> Normalization:
    from torchvision.models import get_model_weights

    try:
        transforms = [weights.transforms() for weights in get_model_weights(name)]
    except ValueError as error:
        raise PnaError(f"torchvision has no model {name!r}: correct the source") from error
    # The name does not tell which of its weights are loaded; as a rule all have one normalization.
    values = {(tuple(x.mean), tuple(x.std)) for x in transforms}
    origin = f"the transforms of torchvision's weights of {name}"
    if len(values) != 1:
        raise PnaError(f"{origin} normalize in {len(values)} ways: {_REMEDY}")
    return Normalization(*values.pop(), origin)


def _scaled(
    mean: Sequence[float], std: Sequence[float], largest: float, origin: str
) -> Normalization:
    """Return values for images in [0, 1], given those for images in [0, largest]."""
    # Processors write 1/255 with fewer digits than a float has.
    scale = 1.0 if abs(largest - 1) < 1e-6 else largest
    return Normalization(tuple(x / scale for x in mean), tuple(x / scale for x in std), origin)


def _refuse_bgr(origin: str, is_bgr: bool) -> None:
    if is_bgr:
        raise PnaError(
            f"{origin} are for BGR, but images are RGB here: wrap the network in a module that "
            "calls it with images.flip(1), and pass that with normalize="
        )


def _gets(network: nn.Module, name: str, images: Tensor) -> bool:
    """Return whether a part of a network is called with the images themselves."""
    if not name:
        return True
    # By a run: a wrapper may change the images first, and has no attribute for that.
    got: list[bool] = []

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        got.append(any(x.shape == images.shape and torch.equal(x, images) for x in tensors))

    handle = network.get_submodule(name).register_forward_pre_hook(watch, with_kwargs=True)
    try:
        with evaluation(network), torch.no_grad():
            network(images)
    finally:
        handle.remove()
    return bool(got) and all(got)  # a part that is not called has no input
