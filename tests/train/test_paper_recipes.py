"""The paper's rows: every setting that matters, written out here a second time."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pna.data.synthetic import (
    write_cityscapes,
    write_cocostuff10k,
    write_deepglobe,
    write_trans10k,
    write_voc,
)
from pna.labels import CITYSCAPES, COCO_STUFF, DEEPGLOBE, TRANS10K, VOC, LabelSpace
from pna.model.config import ModelConfig, PNAConfig
from pna.model.counts import count
from pna.model.presets import PRESETS
from pna.model.segmenter import Segmenter
from pna.train import load_recipe, train
from pna.train.assemble import create_network
from pna.train.recipe import Recipe
from pna.train.recipe_files import bundled_recipes, recipe_head

OURS = ("camvid-unet", "camvid-unet-pna", "damage-lite", "voc-lite")

SHORT_SIDES = (512, 768, 1024, 1280, 1536, 1792, 2048)
CE, HARD = "cross_entropy", "hard_pixels"


@dataclass(frozen=True)
class Run:
    """How a row is trained; batch 16, coarse 1.0, stages 0.1, aux 0.4 in all of them."""

    data: str
    splits: tuple[str, str]
    labels: LabelSpace
    crop: tuple[int, int]
    steps: int
    base_size: tuple[int, int] | None = None
    short_sides: tuple[int, ...] | None = None
    lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    power: float = 0.9
    clip_norm: float | None = None
    losses: tuple[str, str] = (CE, CE)  # of P0, of the stages


VOC_R = Run("voc2012", ("trainaug", "val"), VOC, (512, 512), 20_000, (2048, 512), warmup_steps=200)
VOC_SWIN = replace(VOC_R, lr=6e-5, weight_decay=0.01, power=1.0)
COCO = Run(
    "cocostuff10k", ("train", "test"), COCO_STUFF, (512, 512), 40_000, (2048, 512), warmup_steps=400
)
CITY = Run(
    "cityscapes",
    ("train", "val"),
    CITYSCAPES,
    (512, 1024),
    90_000,
    short_sides=SHORT_SIDES,
    weight_decay=0.01,
    clip_norm=0.01,
    losses=(HARD, HARD),
)
CITY_COARSE = replace(CITY, losses=(HARD, CE))  # no stages, or FPN's
GLOBE = replace(CITY, data="deepglobe", labels=DEEPGLOBE, crop=(508, 508), steps=4_000)
GLASS = replace(
    CITY,
    data="trans10k",
    labels=TRANS10K,
    crop=(512, 512),
    steps=8_000,
    short_sides=(256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024),
)

PNA = PNAConfig()
NAM = PNAConfig(self_aggregation=False)
NO_BIAS = PNAConfig(embedding_bias=False)
R50C, R101C, R50S, R101S = "resnet50c", "resnet101c", "resnet50s", "resnet101s"
TINY, BASE = "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224.ms_in1k"


def swin(encoder: str, coarse: Any, pna: PNAConfig | None = None, *, aux: bool = True) -> Any:
    return ModelConfig(encoder, coarse, drop_path=0.3, aux=aux, pna=pna)


def deeplab(encoder: str, pna: PNAConfig | None = None) -> ModelConfig:
    """DeepLabV3 of the second branch: narrower, multi-grid, no auxiliary head."""
    return ModelConfig(
        encoder,
        "deeplabv3",
        coarse_channels=256,
        rates=(6, 12, 18),
        output_stride=16,
        multi_grid=(1, 2, 4),
        aux=False,
        pna=pna,
    )


def fpn(encoder: str, pna: PNAConfig | None = None) -> ModelConfig:
    return ModelConfig(encoder, "fpn", aux=False, pna=pna)


ROWS: dict[str, tuple[str, str, Run, ModelConfig]] = {
    "voc-fcn-r50": ("1", "67.1", VOC_R, ModelConfig(R50C)),
    "voc-fcn-r50-os8": ("1", "68.1", VOC_R, ModelConfig(R50C, output_stride=8)),
    "voc-fcn-r50-pna-nam": ("1", "76.9", VOC_R, ModelConfig(R50C, pna=NAM)),
    "voc-fcn-r50-pna": ("1", "78.6", VOC_R, ModelConfig(R50C, pna=PNA)),
    **{
        f"voc-fcn-r50-pna-nam-w{window}": (
            "2",
            score,
            VOC_R,
            ModelConfig(R50C, pna=replace(NAM, window=window)),
        )
        for window, score in ((5, "75.3"), (7, "75.8"), (11, "76.9"))
    },
    "voc-deeplabv3-r101": ("3", "77.9", VOC_R, ModelConfig(R101C, "deeplabv3", output_stride=8)),
    "voc-deeplabv3-r101-pna": (
        "3",
        "79.3",
        VOC_R,
        ModelConfig(R101C, "deeplabv3", output_stride=16, pna=PNA),
    ),
    "voc-psp-r101": ("3", "77.9", VOC_R, ModelConfig(R101C, "psp", output_stride=8)),
    "voc-upernet-r101": ("3", "78.8", VOC_R, ModelConfig(R101C, "upernet")),
    "voc-psp-r101-pna": ("3", "79.9", VOC_R, ModelConfig(R101C, "psp", output_stride=16, pna=PNA)),
    "voc-fpn-swint": ("3", "77.3", VOC_SWIN, swin(TINY, "fpn", aux=False)),
    "voc-fcn-swint-pna": ("3", "80.0", VOC_SWIN, swin(TINY, "fcn", PNA)),
    "voc-upernet-swint": ("3", "79.2", VOC_SWIN, swin(TINY, "upernet")),
    "voc-psp-swint-pna-nam": ("3", "80.3", VOC_SWIN, swin(TINY, "psp", NAM)),
    "voc-psp-swint-pna": ("3", "80.8", VOC_SWIN, swin(TINY, "psp", PNA)),
    "voc-fpn-swinb": ("3", "81.6", VOC_SWIN, swin(BASE, "fpn", aux=False)),
    "voc-fcn-swinb-pna": ("3", "82.8", VOC_SWIN, swin(BASE, "fcn", PNA)),
    "voc-upernet-swinb": ("3", "82.3", VOC_SWIN, swin(BASE, "upernet")),
    "voc-psp-swinb-pna": ("3", "83.1", VOC_SWIN, swin(BASE, "psp", PNA)),
    "cityscapes-deeplabv3-r50": ("4", "77.4", CITY_COARSE, deeplab(R50S)),
    "cityscapes-deeplabv3-r50-pna": ("4", "80.3", CITY, deeplab(R50S, NO_BIAS)),
    "cityscapes-deeplabv3-r101": ("4", "77.8", CITY_COARSE, deeplab(R101S)),
    "cityscapes-deeplabv3-r101-pna": ("4", "81.3", CITY, deeplab(R101S, NO_BIAS)),
    "cityscapes-fpn-r101": ("4", "77.7", CITY_COARSE, fpn(R101S)),
    "cityscapes-fpn-r101-pna": ("4", "80.8", CITY_COARSE, fpn(R101S, replace(NO_BIAS, window=7))),
    "deepglobe-fpn-r50-pna": ("5", "74.0", GLOBE, fpn(R50S, replace(NO_BIAS, window=7))),
    "trans10k-fpn-r50-pna": (
        "6",
        "90.7",
        GLASS,
        fpn(R50S, replace(NO_BIAS, window=7, upsample="bilinear")),
    ),
    "cocostuff-deeplabv3-r50-pna": (
        "7",
        "37.0",
        COCO,
        ModelConfig(R50C, "deeplabv3", output_stride=16, pna=PNA),
    ),
}

# Of the default heads: what the coarse head's classifier takes.
WIDTHS = {"fcn": 512, "psp": 512, "deeplabv3": 512, "upernet": 512, "fpn": 128}


def on_meta(name: str) -> Segmenter:
    with torch.device("meta"):
        return create_network(load_recipe(name).model, ROWS[name][2].labels, pretrained=False)


def test_every_row_has_a_recipe_and_every_recipe_a_row() -> None:
    assert set(bundled_recipes()) == {*ROWS, *OURS}


@pytest.mark.parametrize("name", ROWS)
def test_head_gives_table_and_score(name: str) -> None:
    table, score, _, _ = ROWS[name]
    head = recipe_head(name)
    assert head["paper"].startswith(f"Table {table}, ")
    assert head["score"].startswith(f"mIoU {score} ")


@pytest.mark.parametrize("name", ROWS)
def test_settings(name: str) -> None:
    recipe, run = load_recipe(name), ROWS[name][2]
    data, optimizer, loss, schedule = recipe.data, recipe.optimizer, recipe.loss, recipe.schedule
    found = Run(
        data=data.name,
        splits=(data.train_split, data.val_split),
        labels=run.labels,
        crop=data.crop,
        steps=schedule.steps,
        base_size=data.base_size,
        short_sides=data.short_sides,
        lr=optimizer.lr,
        weight_decay=optimizer.weight_decay,
        warmup_steps=schedule.warmup_steps,
        power=schedule.power,
        clip_norm=optimizer.clip_norm,
        losses=(loss.coarse_kind, loss.stage_kind),
    )
    assert found == run
    assert (loss.coarse, loss.stage, loss.aux, loss.hard_share) == (1.0, 0.1, 0.4, 0.2)
    assert (optimizer.head_lr, optimizer.betas) == (None, (0.9, 0.999))
    assert schedule.warmup_from == 1e-6
    assert (data.scale, data.flip, data.jitter) == ((0.5, 2.0), 0.5, True)
    assert (recipe.run.batch_size, recipe.run.precision, recipe.run.ema) == (16, "fp16", None)
    assert recipe.model.pretrained


@pytest.mark.parametrize("name", ROWS)
def test_network(name: str) -> None:
    config = ROWS[name][3]
    model = on_meta(name)
    assert model.config == config
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    width = config.coarse_channels or WIDTHS[config.coarse]
    classifier: Any = model.coarse.classifier
    (conv,) = [m for m in classifier.modules() if isinstance(m, nn.Conv2d)]
    assert (conv.in_channels, conv.out_channels) == (width, model.num_classes)
    if config.coarse == "deeplabv3":
        pyramid: Any = model.coarse.pyramid
        dilations = [m.dilation[0] for m in pyramid.branches.modules() if isinstance(m, nn.Conv2d)]
        assert dilations == [1, *(config.rates or (12, 24, 36))]
    if model.refiner is not None:
        stages: list[Any] = list(model.refiner.stages)
        widths = [stage.classifier.weight.shape[1] for stage in stages]
        assert widths == [768, 384, 192, 96]


@pytest.mark.parametrize("name", ROWS)
def test_files_hold_only_what_differs(name: str) -> None:
    """A setting that equals the default, or the preset's, is left out."""
    recipe = load_recipe(name)
    given = recipe.model_dump(exclude_unset=True)
    defaults = Recipe.model_validate(
        {
            "model": {"preset": recipe.model.preset},
            "data": {"name": "x", "root": "x"},
            "schedule": {"steps": 1},
        }
    ).model_dump()
    for section, settings in given.items():
        for key, value in settings.items():
            assert value != defaults[section][key] or (section, key) == ("model", "preset")
    plain = PRESETS[recipe.model.preset]
    assert recipe.model.encoder != plain.encoder
    for key, value in given["model"].get("overrides", {}).items():
        assert value != getattr(plain, key, getattr(plain.pna, key, None))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_estimate_is_worked_out_from_the_network(name: str) -> None:
    recipe = load_recipe(name)
    pattern = r"([\d.]+) on one GPU \(an estimate: ([\d.]+) GMACs x 6 x 16 x ([\d,]+) steps, 10 TF"
    stated = re.match(pattern, recipe_head(name)["hours"])
    assert stated is not None
    parts = count(on_meta(name), recipe.data.crop)
    gmacs = sum(part.macs + part.attention_macs for part in parts) / 1e9
    assert float(stated[2]) == pytest.approx(gmacs, abs=0.06)
    assert int(stated[3].replace(",", "")) == recipe.schedule.steps
    hours = float(stated[2]) * 1e9 * 6 * 16 * recipe.schedule.steps / 10e12 / 3600
    assert float(stated[1]) == pytest.approx(hours, abs=0.06)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "voc2012": write_voc,
    "cityscapes": write_cityscapes,
    "cocostuff10k": write_cocostuff10k,
    "deepglobe": lambda root: write_deepglobe(root, size=(32, 32)),  # hundreds of them
    "trans10k": write_trans10k,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_two_steps(name: str, tmp_path: Path) -> None:
    """From the made data set in its owners' layout to the exported model and its scores."""
    torch.set_num_threads(1)
    data = load_recipe(name).data.name
    root = WRITERS[data](tmp_path / data)
    small = ["data.crop=[64, 64]", "data.num_workers=0", "data.limit=4", "run.batch_size=2"]
    if data == "deepglobe":  # fewer pictures than in its val
        small.append("data.val_split=test")
    changes = [f"data.root={root}", "schedule.steps=2", "model.pretrained=false", *small]
    changes += ["schedule.warmup_steps=1", "run.precision=no", "run.tensorboard=false"]
    changes += ["run.eval_every=null"]
    assert train(load_recipe(name, changes), tmp_path / "run") == "finished"
    report = (tmp_path / "run" / "evaluation" / "scores.md").read_text()
    has_stages = ROWS[name][3].pna is not None
    assert ("| P4" in report) == has_stages
    assert "| P0" in report
