"""All baselines as whole models: any size, any number of classes, gradients, files and counts."""

import copy

import pytest
import torch

import pna
from model_contract import ModelContract
from pna.lab.baselines import PRESETS
from pna.labels import IGNORE_INDEX
from pna.model import presets
from pna.model.config import ModelOptions
from pna.model.counts import count
from pna.model.pna.config import PNAConfig

OPTIONS = ModelOptions(output_stride=32, coarse_channels=16, aux=False)
NUM_STAGES = {
    "fpn-pointrend": 1,
    "deeplabv3-pointrend": 1,
    "eblnet": 3,
    "fapn": 0,
    "fcn-decoder": 4,
    "fcn-segfix": 1,
    "glnet-thirds": 1,
    "isdnet": 1,
    "magnet-thirds": 2,
    "translab": 0,
}
LOSSES = {
    "fpn-pointrend": {"points"},
    "deeplabv3-pointrend": {"points"},
    "eblnet": {"edges", "bodies"},
    "fcn-segfix": {"boundary", "direction"},
    "glnet-thirds": {"local", "global", "unlike"},
    "isdnet": {"contexts", "details", "relations"},
    "magnet-thirds": {"fine", "merged"},
    "translab": {"boundary"},
}
WITHOUT_LABELS = {"details", "relations", "unlike"}
"""Losses that compare maps with each other or with the image."""


def _model(preset, num_classes=3):
    torch.manual_seed(0)
    return pna.create_model(
        preset,
        num_classes,
        encoder="resnet18",
        encoder_weights=None,
        pna=PNAConfig(widths=(32,) * 4, window=3) if preset == "fcn-decoder" else None,
        options=OPTIONS,
        presets=PRESETS,
    )


def _losses(model, images, labels):
    """The refiner's losses on images whose size needs no padding."""
    output = model(images)
    aux = {name: x.float() for name, x in output.aux.items()}
    return output, model.refiner.losses(aux, labels) if model.refiner else {}


def test_the_librarys_presets_are_among_them():
    assert PRESETS.items() > presets.PRESETS.items()
    assert set(NUM_STAGES) < PRESETS.keys() - presets.PRESETS.keys()


@pytest.fixture(scope="module", params=NUM_STAGES)
def baseline(request):
    return request.param


@pytest.fixture(scope="module")
def model(baseline):
    return _model(baseline).eval()


class TestBaselines(ModelContract):
    def load(self, path_or_name, request):
        """Read it back; baselines need their presets."""
        return pna.load(path_or_name, presets=PRESETS)

    def formats(self, request):
        """Which hold it.

        Chosen points have no form in ONNX; of nearly equal offsets another one may win there. The
        number of patches depends on the image.
        """
        name = request.getfixturevalue("baseline")
        if name in ("glnet-thirds", "magnet-thirds"):
            return ()
        return ("pt2",) if "pointrend" in name or name == "fcn-segfix" else ("onnx", "pt2")

    def test_its_stages(self, model, baseline):
        assert model.num_stages == NUM_STAGES[baseline]

    def test_the_library_alone_does_not_know_it(self, model, baseline, tmp_path):
        model.save_pretrained(tmp_path)
        with pytest.raises(pna.PnaError, match=rf"config\.json: unknown preset {baseline!r}"):
            pna.load(tmp_path)

    # Weights at random are unsure of most pixels.
    @pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 0.9), (torch.bfloat16, 0.7)])
    @torch.inference_mode()
    def test_half_precision(self, model, dtype, least):
        images = torch.rand(1, 3, 128, 160)
        found = copy.deepcopy(model).to(dtype)(images.to(dtype)).logits
        assert found.dtype == dtype
        assert found.isfinite().all()
        agreed = (found.argmax(1) == model(images).logits.argmax(1)).float().mean()
        assert agreed > least

    @torch.inference_mode()
    def test_one_class(self, baseline):
        output = _model(baseline, num_classes=1).eval()(torch.rand(1, 3, 1, 1))
        assert output.logits.isfinite().all()


@pytest.mark.parametrize("preset", NUM_STAGES)
def test_training_reaches_every_parameter(preset):
    model = _model(preset).train()
    labels = torch.randint(3, (2, 64, 64))
    labels[0, :, :20] = IGNORE_INDEX
    output, losses = _losses(model, torch.rand(2, 3, 64, 64), labels)
    assert losses.keys() == LOSSES.get(preset, set())
    outputs = [output.logits, output.coarse, *output.stages]
    total = sum((x * torch.randn_like(x)).sum() for x in outputs) + sum(losses.values())
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("preset", LOSSES)
def test_losses_alone_reach_the_encoder_and_ignored_labels_give_none(preset):
    model = _model(preset).train()
    images = torch.rand(2, 3, 64, 64)
    first = next(model.encoder.parameters())
    _, losses = _losses(model, images, torch.full((2, 64, 64), IGNORE_INDEX))
    sum(loss for name, loss in losses.items() if name not in WITHOUT_LABELS).backward()
    assert first.grad is None or not first.grad.any()
    _, losses = _losses(model, images, torch.randint(3, (2, 64, 64)))
    sum(losses.values()).backward()
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("preset", LOSSES)
def test_training_is_a_function_of_the_seed(preset):
    model = _model(preset).train()
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    totals = []
    for _ in range(2):
        torch.manual_seed(1)
        totals.append(float(sum(_losses(model, images, labels)[1].values()).detach()))
    assert totals[0] == totals[1]


@pytest.mark.parametrize("preset", sorted(set(NUM_STAGES) - {"fcn-decoder"}))
def test_half_precision(preset):
    model = _model(preset)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, losses = _losses(model.train(), images, labels)
        with torch.inference_mode():
            assert model.eval()(images).logits.isfinite().all()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "glnet-thirds" else [])  # 16 patches
        for name in NUM_STAGES
    ],
)
def test_counts_hold_every_parameter(preset):
    model = _model(preset)
    parts = {part.part: part for part in count(model, (64, 96))}
    assert sum(part.parameters for part in parts.values()) == sum(
        p.numel() for p in model.parameters()
    )
    assert ("neck" in parts) == (preset in ("fpn-pointrend", "eblnet", "isdnet", "translab"))
    if preset not in ("fcn-decoder", "fapn", "translab"):  # counted stage by stage, or none
        assert parts["refinement"].macs > 0


def test_deformable_convolutions_are_counted():
    """FaPN's multiply-accumulates on all levels, by hand."""
    parts = count(_model("fapn"), (64, 64))
    (head,) = [part for part in parts if part.part == "coarse head"]
    by_level = {4: (16, 64), 8: (8, 128), 16: (4, 256)}  # side, channels of resnet18
    width, slim = 32, 16  # coarse_channels is 16
    macs = 2 * 2 * 512 * width  # coarsest level
    for side, channels in by_level.values():
        select = channels * channels + side**2 * channels * width
        offsets = 2 * width * width + 9 * width * 216  # 8 groups of 9 taps, 3 numbers each
        macs += select + side**2 * (offsets + 9 * width * width + 9 * width * width)
    to_the_finest = [(16,), (8,), (4, 8), (2, 4, 8)]  # sides of each level's convolutions
    for sides in to_the_finest:
        for place, side in enumerate(sides):
            macs += 9 * side**2 * (slim if place else width) * slim
    assert head.macs == macs + 16**2 * slim * 3


@pytest.mark.parametrize(
    "preset", ["fapn", "fcn-decoder", "fcn-segfix", "fpn-pointrend", "glnet", "magnet"]
)
def test_options_of_other_heads_are_refused(preset):
    with pytest.raises(pna.PnaError, match=rf"^preset '{preset}' has no rates, got \(2, 4\)"):
        pna.create_model(
            preset, 3, encoder_weights=None, options=ModelOptions(rates=(2, 4)), presets=PRESETS
        )
