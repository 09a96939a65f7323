"""Comparison files: settings, defaults, and errors."""

import copy
from pathlib import Path

import pytest
import yaml

from pna.lab.compare.comparison import (
    Comparison,
    bundled_comparisons,
    comparison_head,
    load_comparison,
)
from pna.lab.compare.runs import plan_runs
from pna.model.pna.config import PNAConfig

UNET = {"library": "smp", "name": "Unet", "options": {"encoder_name": "resnet18"}}


def changed(tree, **changes):
    return copy.deepcopy(tree) | changes


def write(tmp_path, tree):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_settings_are_shared_and_models_differ(comparison):
    runs = {run.name: run for run in plan_runs(comparison, Path("out"))}
    assert [*runs] == ["fcn-2-0", "pna-2-0", "pna-3-0", "fcn-2-1", "again-2-0", "again-2-1"]
    for run in runs.values():
        recipe = run.recipe
        assert (recipe.data, recipe.loss, recipe.optimizer) == (
            comparison.data,
            comparison.loss,
            comparison.optimizer,
        )
        assert (recipe.schedule.steps, recipe.run.seed) == (run.steps, run.seed)
        assert recipe.model.options.coarse_channels == 32
    assert runs["pna-3-0"].recipe.model.pna.window == 3
    assert runs["again-2-1"].source == runs["fcn-2-1"]


def test_own_options_come_last_and_null_is_the_presets_own(tree):
    models = [
        {"name": "a", "preset": "lite-fcn", "options": {"coarse_channels": 64}},
        {"name": "b", "preset": "lite-fcn", "options": {"coarse_channels": None}},
    ]
    comparison = Comparison.model_validate(changed(tree, models=models))
    a, b = (comparison.section_of(model).options for model in comparison.models)
    assert (a.coarse_channels, a.aux) == (64, False)
    assert (b.coarse_channels, b.aux) == (None, False)


def test_a_recipes_own_seed_and_steps_are_the_defaults(tree):
    one = changed(tree, seeds=None, steps=None, models=tree["models"][:1])
    (run,) = plan_runs(Comparison.model_validate(one), Path("out"))
    assert run.name == "fcn-600-0"


def test_tables_have_the_baseline_first(comparison):
    tables = comparison.tables().items()
    names = {title: [model.name for model in models] for title, models in tables}
    assert names == {"A": ["fcn", "pna"], "B": ["fcn", "pna", "again"]}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "fcn", "preset": "lite"}, r"models: expected each name once, got fcn again"),
        ({"name": "a/b", "preset": "lite"}, r"models\.3\.name: .*pattern.*, got 'a/b'"),
        ({"name": "a", "preset": "light"}, r"a: unknown preset 'light'; known are fcn, "),
        ({"name": "a"}, r"a: expected a preset or a cascade, got neither"),
        ({"name": "a", "preset": "lite", "cascade": UNET}, r"a: expected .* got both"),
        (
            {"name": "a", "preset": "lite", "seed": 1},
            r"unknown key models\.3\.seed: did you mean s",
        ),
        (
            {"name": "a", "preset": "lite", "pna": {"windw": 3}},
            r"a: pna: unknown key windw",
        ),
        ({"name": "a", "preset": "lite", "seeds": []}, r"models\.3\.seeds: .*at least 1"),
        (
            {"name": "a", "preset": "lite-fcn", "weights_of": "b"},
            r"a: weights_of: expected one of fcn, .*got b",
        ),
        (
            {"name": "a", "preset": "lite-fcn", "weights_of": "again"},
            r"a model that is trained, got again",
        ),
        (
            {"name": "a", "preset": "lite-fcn", "weights_of": "fcn", "seeds": [7]},
            r"same seeds: leave seeds of a out",
        ),
        (
            {"name": "a", "preset": "lite-fcn", "weights_of": "fcn", "steps": [9]},
            r"same steps: .*some of fcn's",
        ),
    ],
)
def test_an_error_of_a_model_names_it(tree, tmp_path, model, message):
    path = write(tmp_path, changed(tree, models=[*tree["models"], model]))
    with pytest.raises(ValueError, match=rf"own\.yaml: .*{message}"):
        load_comparison(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "resnet"}, r"baseline: expected one of fcn, pna, again, got resnet"),
        ({"control": "resnet"}, r"control: expected one of fcn, pna, again, got resnet"),
        ({"models": []}, r"models: .*at least 1 item"),
        ({"optimiser": {}}, r"unknown key optimiser: did you mean optimizer"),
        ({"data": {"name": "camvid"}}, r"data\.root: expected a value, got none"),
    ],
)
def test_other_errors_name_the_key(tree, tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"own\.yaml: .*{message}"):
        load_comparison(write(tmp_path, changed(tree, **changes)))


def test_settings_can_be_overridden(file):
    comparison = load_comparison(file, ["run.batch_size=4", "seeds=[5]", "encoder=resnet18"])
    assert (comparison.run.batch_size, comparison.seeds, comparison.encoder) == (
        4,
        (5,),
        "resnet18",
    )


def test_an_unknown_comparison():
    with pytest.raises(FileNotFoundError, match="expected a comparison file or one of .*camvid-li"):
        load_comparison("camvid-light")


@pytest.mark.parametrize("name", bundled_comparisons())
def test_bundled_comparisons(name):
    comparison, head = load_comparison(name), comparison_head(name)
    assert head["command"].startswith(f"pna compare {name} -o runs/{name}")
    assert {"shows", "hours"} <= set(head)
    assert plan_runs(comparison, Path("out"))


def test_a_cascade_takes_the_options_of_the_refinement_alone(tree):
    pna = {"widths": [32, 32, 32, 32], "window": 7}
    models = [
        {"name": "unet", "cascade": UNET, "pna": None},
        {"name": "unet-pna", "cascade": UNET, "pna": pna},
        {"name": "unet-default", "cascade": UNET},
    ]
    comparison = Comparison.model_validate(changed(tree, models=models))
    alone, refined, default = map(comparison.section_of, comparison.models)
    assert alone.title == "Unet (smp)"
    assert alone.pna is None
    assert (refined.preset, refined.encoder, refined.title) == (None, None, "Unet (smp) + PNA")
    assert (refined.pna.window, refined.pna.widths) == (7, (32, 32, 32, 32))
    assert refined.pna.keep_detail  # as pna.cascade has it
    assert default.pna == PNAConfig.for_cascade()


def test_a_baseline_is_a_preset(tree):
    models = [{"name": "decoder", "preset": "lite-decoder", "pna": {"window": 3}}]
    (run,) = plan_runs(
        Comparison.model_validate(changed(tree, models=models, seeds=[0])), Path("out")
    )
    assert run.recipe.model.pna.window == 3
