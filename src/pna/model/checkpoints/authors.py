"""Whole models of the authors' two branches: encoder, coarse head, auxiliary head, refinement.

The mmsegmentation branch trained VOC 2012 and COCO-Stuff 10k, the detectron2 branch Cityscapes,
DeepGlobe and Trans10k. Parts and sizes are read off the tensors. Dilation, rates, padding and
image size are those of the branch's configurations; the data set says the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from pna.errors import PnaError
from pna.labels import LabelSpace, generic
from pna.model.checkpoints import heads
from pna.model.checkpoints.encoders import d2_encoder, mm_encoder
from pna.model.checkpoints.names import Content, Part, transfer_parts, unpack, without_prefix
from pna.model.checkpoints.published import D2, MM, Published
from pna.model.checkpoints.refinement import read_refinement
from pna.model.checkpoints.settings import (
    check_number,
    check_outputs,
    named_classes,
    set_normalization,
)
from pna.model.config import ModelOptions
from pna.model.presets import create_model
from pna.model.resize import ResizeMode
from pna.model.segmenter import Segmenter

AuthorsDataset = Literal["voc2012", "cocostuff10k", "cityscapes", "deepglobe", "trans10k"]

_MM_RATES, _D2_RATES = (12, 24, 36), (6, 12, 18)
_MULTI_GRID = (1, 2, 4)


@dataclass(frozen=True)
class _Branch:
    """One of the authors' two code bases.

    Attributes:
        name: Its framework.
        refinement: What the names of the refinement begin with.
        published: The data sets of its configurations.
        encoder: Recognizes the encoder.
        head: Recognizes the coarse head.
        options: Returns what its configurations have for an encoder and a head.
    """

    name: str
    refinement: str
    published: Mapping[str, Published]
    encoder: Callable[[Mapping[str, Tensor]], Part]
    head: Callable[[Mapping[str, Tensor]], Part]
    options: Callable[[Part, Part], ModelOptions]


def _mm_options(encoder: Part, head: Part) -> ModelOptions:
    # PSPNet and DeepLabV3 have output stride 16, FCN has 32; a Swin cannot be dilated.
    is_dilated = head.name in ("psp", "deeplabv3") and encoder.name.startswith("resnet")
    return ModelOptions(
        output_stride=16 if is_dilated else 32,
        rates=_MM_RATES if head.name == "deeplabv3" else None,
        padding="none",
    )


def _mm_head(state: Mapping[str, Tensor]) -> Part:
    return heads.mm_head(state, "decode_head.0.")


def _d2_options(encoder: Part, head: Part) -> ModelOptions:
    # Every configuration has the multi-grid, semantic FPN at output stride 32 too.
    if head.name == "fpn":
        return ModelOptions(output_stride=32, multi_grid=_MULTI_GRID, padding="mean")
    return ModelOptions(output_stride=16, multi_grid=_MULTI_GRID, rates=_D2_RATES, padding="none")


_BRANCHES = (
    _Branch("mmsegmentation", "decode_head.1.", MM, mm_encoder, _mm_head, _mm_options),
    _Branch("detectron2", "sem_seg_head.pna_head.", D2, d2_encoder, heads.d2_head, _d2_options),
)


def from_authors(
    state_dict: Mapping[str, Any],
    *,
    dataset: AuthorsDataset | None = None,
    labels: LabelSpace | None = None,
    upsample: ResizeMode | None = None,
    options: ModelOptions = ModelOptions(),
    resize_images: bool = True,
) -> Segmenter:
    """Build the whole model that a checkpoint of the authors holds.

    Args:
        state_dict: Tensors by name, with any prefix (`module.`, `model.`), or their container as
            `torch.load` returns it.
        dataset: The data set of the authors that the model was trained on: its classes and colors,
            resizing between stages and image size. By default the one with as many classes in that
            branch, if the checkpoint names no other classes.
        labels: The classes, for a model that was trained on other data.
        upsample: How predictions are resized between stages; by default as for the data set, which
            is "nearest" but for Trans10k.
        options: What else the tensors do not say, where the model is not of the published
            configuration: `output_stride`, `multi_grid`, `rates`, `pool_window`, `padding`,
            `inference_size`.
        resize_images: Whether `Predictor` and `evaluate` resize images as the authors' test did.

    Returns:
        A model in evaluation mode, which can be saved, loaded, scored and trained on.

    Raises:
        PnaError: It is not a whole checkpoint of either branch, or something has to be stated.

    Example:
        >>> import pna
        >>> pna.checkpoints.from_authors({"state_dict": {}})
        Traceback (most recent call last):
        ...
        pna.errors.PnaError: expected tensors by name, got 0 entries such as none at all
    """
    content = unpack(state_dict)
    state = without_prefix(content.state, "backbone")
    branch = _find_branch(state)
    encoder, head = branch.encoder(state), branch.head(state)
    refinement = read_refinement(state, branch.refinement, "nearest")
    check_outputs(refinement.num_classes)
    labels, facts = _find_labels(branch, content, refinement.num_classes, dataset, labels)
    pna = replace(refinement.config, upsample=upsample or (facts.upsample if facts else "nearest"))
    found = ModelOptions(
        aux=any(name.startswith("auxiliary_head.") for name in state),
        pool_window=facts.pool_window if facts and head.options.pool_norm is False else None,
        inference_size=facts.inference_size if facts and resize_images else None,
    )
    for more in (encoder.options, head.options, branch.options(encoder, head)):
        found = found.over(more)
    options = options.over(found)
    _check_pool_window(options, head)
    heads.check_rates(options, state)
    model = create_model(
        f"{head.name}-pna",
        labels=labels,
        encoder=encoder.name,
        encoder_weights=None,
        pna=pna,
        options=options,
    )
    transfer_parts(
        model,
        state,
        {
            "encoder": encoder,
            "coarse": head,
            "refiner": Part("pna", refinement.rename),
            "auxiliary": Part("fcn", heads.mm_auxiliary_name),
        },
    )
    set_normalization(model, state)
    return model.eval()


def _find_branch(state: Mapping[str, Tensor]) -> _Branch:
    for branch in _BRANCHES:
        if any(name.startswith(branch.refinement) for name in state):
            return branch
    expected = " or ".join(f"{branch.refinement} ({branch.name} branch)" for branch in _BRANCHES)
    raise PnaError(
        f"expected a refinement under {expected} beside the backbone, got "
        f"{', '.join(sorted({name.split('.')[0] for name in state}))}: it is no checkpoint of the "
        "authors' models"
    )


def _find_labels(
    branch: _Branch,
    content: Content,
    num_classes: int,
    dataset: str | None,
    labels: LabelSpace | None,
) -> tuple[LabelSpace, Published | None]:
    """Return the classes, and what is known of the data set; None for other data."""
    facts: Published | None = None
    if dataset is not None:
        if dataset not in branch.published:
            raise PnaError(
                f"expected a data set of the authors' {branch.name} branch, "
                f"{', '.join(branch.published)}, got {dataset!r}: pass labels for other data"
            )
        facts = branch.published[dataset]
        if labels is None and facts.labels.num_classes != num_classes:
            raise PnaError(
                f"expected {facts.labels.num_classes} outputs, as trained on {dataset}, got "
                f"{num_classes}: name another data set, or pass labels"
            )
    elif labels is None:
        same = [x for x in branch.published.values() if x.labels.num_classes == num_classes]
        facts = same[0] if same else None
        named = named_classes(content, num_classes)
        if named is not None and (facts is None or not _agree(named, facts.labels)):
            return named, None
    if labels is None:
        labels = facts.labels if facts else generic(num_classes)
    check_number(labels, num_classes)
    return labels, facts


def _agree(named: LabelSpace, known: LabelSpace) -> bool:
    """Whether most classes have the same names, which may be spelled in several ways."""

    def folded(name: str) -> str:
        return "".join(sign for sign in name.casefold() if sign.isalnum())

    pairs = zip(named.classes, known.classes, strict=True)
    same = sum(folded(a) == folded(b) for a, b in pairs)
    return same > known.num_classes / 2


def _check_pool_window(options: ModelOptions, head: Part) -> None:
    if head.options.pool_norm is False and options.pool_window is None:
        raise PnaError(
            "the pooled branch of this DeepLabV3 averages windows as large as the crops of its "
            "training, which the checkpoint does not hold: pass pool_window, the crop's height and "
            "width by 16 in cells, such as (32, 64) for 512x1024"
        )
