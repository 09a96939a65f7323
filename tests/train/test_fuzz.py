"""Settings, sizes and labels drawn at random: training works, or a `ValueError` says why not.

Each property is tried on a few draws always, and on many in the slow tests.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pna.labels import IGNORE_INDEX, generic
from pna.train import dump_recipe, load_recipe, parse_recipe
from pna.train.build import augment, create_network
from pna.train.losses import segmentation_loss

TREE = {
    "model": {"preset": "lite", "encoder_weights": None},
    "data": {"name": "voc2012", "root": "data"},
    "schedule": {"steps": 3},
}
KEYS = sorted(load_recipe("voc-lite").flat())

keys = st.sampled_from(KEYS) | st.text(max_size=12)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.text(max_size=12) | st.recursive(
    plain, lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=4), some)
).map(lambda value: str(yaml.safe_dump(value)))

sides = st.integers(1, 70)
networks = st.fixed_dictionaries(
    {
        "window": st.integers(-1, 9),
        "widths": st.sampled_from([[32, 32, 32, 32], [32, 64, 32, 32], [32], [31, 32, 32, 32]]),
        "self_aggregation": st.booleans(),
        "variant": st.sampled_from(["released", "paper", "mixer"]),
        "residual": st.sampled_from(["none", "add", "gather"]),
        "upsample": st.sampled_from(["nearest", "bilinear"]),
    }
)
heads = st.fixed_dictionaries(
    {
        "coarse_channels": st.sampled_from([1, 8]),
        "output_stride": st.sampled_from([None, 8, 16, 32]),
        "aux": st.booleans(),
    }
)
losses = st.fixed_dictionaries(
    {
        "coarse": st.sampled_from([0.0, 1.0]),
        "stage": st.sampled_from([0.0, 0.1]),
        "coarse_kind": st.sampled_from(["cross_entropy", "hard_pixels"]),
        "stage_kind": st.sampled_from(["cross_entropy", "hard_pixels"]),
        "hard_share": st.sampled_from([1e-9, 0.2, 1.0]),
    }
)
scales = st.fixed_dictionaries(
    {"crop": st.tuples(sides, sides), "flip": st.floats(0, 1), "jitter": st.booleans()},
    optional={
        "scale": st.tuples(st.floats(0.01, 3), st.floats(0.01, 3)),
        "base_size": st.tuples(sides, sides),
        "short_sides": st.lists(sides, max_size=3),
    },
)


def often(number: int, many: int) -> Any:
    """Two tests of one property: a few draws, and many in a slow one."""

    def profile(examples: int) -> Any:
        unhurried = [HealthCheck.too_slow, HealthCheck.data_too_large]
        return settings(max_examples=examples, deadline=None, suppress_health_check=unhurried)

    few = pytest.param(profile(number), id="few")
    return pytest.mark.parametrize(
        "draws", [few, pytest.param(profile(many), id="many", marks=pytest.mark.slow)]
    )


def draw_labels(size: tuple[int, ...], num_classes: int, ignored: str, seed: int) -> Tensor:
    """Labels of random classes; ignored are none, all, some, the right half, or all but one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, size, generator=generator)
    if ignored == "all":
        labels[:] = IGNORE_INDEX
    elif ignored == "some":
        labels[torch.rand(size, generator=generator) < 0.5] = IGNORE_INDEX
    elif ignored == "half":
        labels[..., size[-1] // 2 :] = IGNORE_INDEX
    elif ignored == "all but one":
        one = labels.flatten()[0].clone()
        labels[:] = IGNORE_INDEX
        labels.view(-1)[0] = one
    return labels


ignored_patterns = st.sampled_from(["none", "all", "some", "half", "all but one"])


@often(20, 2000)
def test_any_override_is_taken_or_refused(draws: Any) -> None:
    @draws
    @given(st.lists(st.tuples(keys, values), max_size=3))
    def check(overrides: list[tuple[str, str]]) -> None:
        try:
            recipe = load_recipe("voc-lite", [f"{key}={value}" for key, value in overrides])
        except ValueError:
            return
        assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe

    check()


@often(20, 1000)
def test_any_file_is_taken_or_refused_by_name(draws: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    sound = dump_recipe(load_recipe("voc-lite")).encode()

    @draws
    @given(st.binary(max_size=60), st.integers(0, len(sound)), st.integers(0, 20))
    def check(noise: bytes, start: int, length: int) -> None:
        file.write_bytes(sound[:start] + noise + sound[start + length :])
        try:
            load_recipe(file)
        except ValueError as error:
            message = str(error)
        else:
            return
        assert str(file) in message

    check()


@often(5, 150)
def test_any_network_trains_on_any_image(draws: Any) -> None:
    """Sizes, windows, classes, variants and ignored pixels: finite losses and gradients."""

    @draws
    @given(
        networks,
        heads,
        losses,
        st.tuples(st.integers(1, 2), sides, sides),
        st.integers(2, 30),
        ignored_patterns,
        st.integers(0, 99),
    )
    def check(
        pna: dict[str, Any],
        options: dict[str, Any],
        weights: dict[str, Any],
        size: tuple[int, int, int],
        num_classes: int,
        ignored: str,
        seed: int,
    ) -> None:
        tree = TREE | {"model": {**TREE["model"], "pna": pna, "options": options}, "loss": weights}
        try:
            recipe = parse_recipe(tree, label="drawn")
            model = create_network(recipe.model, generic(num_classes), pretrained=False)
        except ValueError:
            return
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # it needs more than one cell, and says so itself
        labels = draw_labels(size, num_classes, ignored, seed)
        output = model(torch.rand(size[0], 3, *size[1:]))
        assert output.logits.shape == (size[0], num_classes, *size[1:])
        total, _ = segmentation_loss(output, labels, model, recipe.loss)
        assert total.isfinite()
        if total.requires_grad:
            total.backward()
        assert ignored != "all" or total.item() == 0.0
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)

    check()


class OneImage(list[int]):
    """Stands in for a data set of one image."""

    def __init__(self, image: Tensor, labels: Tensor) -> None:
        super().__init__([0])
        self.sample = image, labels
        self.pairs = [type("Pair", (), {"name": "drawn"})]

    def read_raw(self, index: int) -> tuple[Tensor, Tensor]:
        return self.sample


@often(20, 500)
def test_any_crop_of_any_image_has_its_size(draws: Any) -> None:
    @draws
    @given(scales, st.tuples(sides, sides), ignored_patterns, st.integers(0, 99))
    def check(data: dict[str, Any], size: tuple[int, int], ignored: str, seed: int) -> None:
        labels = draw_labels(size, 5, ignored, seed).to(torch.uint8)
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        try:
            recipe = parse_recipe(TREE | {"data": {**TREE["data"], **data}}, label="drawn")
            samples = augment(OneImage(image, labels), recipe.data, seed=seed)  # type: ignore[arg-type]
        except ValueError:
            return
        sample = samples[0, 0]
        assert sample.image.shape == (3, *data["crop"])
        assert sample.labels.shape == tuple(data["crop"])
        assert (sample.image.min() >= 0) & (sample.image.max() <= 1)
        assert set(sample.labels.unique().tolist()) <= {*range(5), IGNORE_INDEX}

    check()
