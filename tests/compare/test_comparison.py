"""Comparison files: what they say, and what is wrong with them."""

import copy
from pathlib import Path

import pytest
import yaml

from pna.compare.comparison import Comparison, MeasureSection, ModelRow
from pna.compare.files import bundled_comparisons, comparison_head, load_comparison
from pna.compare.runs import plan
from pna.model.presets import PRESETS
from pna.train.recipe import Recipe


def changed(tree, **changes):
    return copy.deepcopy(tree) | changes


def write(tmp_path, tree):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_settings_are_shared_and_models_differ(comparison):
    runs = {run.name: run for run in plan(comparison, Path("out"))}
    assert [*runs] == ["fcn-2-0", "pna-2-0", "pna-3-0", "fcn-2-1", "again-2-0", "again-2-1"]
    for run in runs.values():
        recipe = run.recipe
        assert (recipe.data, recipe.loss, recipe.optimizer) == (
            comparison.data,
            comparison.loss,
            comparison.optimizer,
        )
        assert (recipe.schedule.steps, recipe.run.seed) == (run.budget, run.seed)
        assert recipe.model.overrides.coarse_channels == 32
    assert runs["pna-3-0"].recipe.model.overrides.window == 3
    assert runs["again-2-1"].source == runs["fcn-2-1"]


def test_own_overrides_come_last_and_null_is_the_presets_own(tree):
    models = [
        {"name": "a", "preset": "lite-fcn", "overrides": {"coarse_channels": 64}},
        {"name": "b", "preset": "lite-fcn", "overrides": {"coarse_channels": None}},
    ]
    comparison = Comparison.model_validate(changed(tree, models=models))
    a, b = (comparison.model_of(row).overrides for row in comparison.models)
    assert (a.coarse_channels, a.aux) == (64, False)
    assert (b.coarse_channels, b.aux) == (None, False)


def test_a_recipes_own_seed_and_steps_are_the_defaults(tree):
    one = changed(tree, seeds=None, budgets=None, models=tree["models"][:1])
    (run,) = plan(Comparison.model_validate(one), Path("out"))
    assert run.name == "fcn-600-0"


def test_groups_hold_the_baseline_first(comparison):
    names = {title: [row.name for row in rows] for title, rows in comparison.groups().items()}
    assert names == {"A": ["fcn", "pna"], "B": ["fcn", "pna", "again"]}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "fcn", "preset": "lite"}, r"models: expected each name once, got fcn again"),
        ({"name": "a/b", "preset": "lite"}, r"models\.3\.name: .*pattern.*, got 'a/b'"),
        ({"name": "a", "preset": "light"}, r"a: expected a preset of fcn, .*; got 'light'"),
        (
            {"name": "a", "preset": "lite", "seed": 1},
            r"unknown key models\.3\.seed: did you mean s",
        ),
        (
            {"name": "a", "preset": "lite", "overrides": {"windw": 3}},
            r"unknown key models\.3\.overrides\.windw: did you mean window",
        ),
        ({"name": "a", "preset": "lite", "seeds": []}, r"models\.3\.seeds: .*at least 1"),
        (
            {"name": "a", "preset": "lite", "behind": "b"},
            r"a: behind: expected one of fcn, .*got b",
        ),
        ({"name": "a", "preset": "lite", "behind": "again"}, r"a model that is trained, got again"),
        ({"name": "a", "preset": "lite", "behind": "fcn", "seeds": [7]}, r"seeds that fcn has"),
        ({"name": "a", "preset": "lite", "behind": "fcn", "budgets": [9]}, r"some of fcn's"),
    ],
)
def test_what_is_wrong_with_a_model_is_named(tree, tmp_path, model, message):
    path = write(tmp_path, changed(tree, models=[*tree["models"], model]))
    with pytest.raises(ValueError, match=rf"own\.yaml: .*{message}"):
        load_comparison(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "resnet"}, r"baseline: expected one of fcn, pna, again, got resnet"),
        ({"control": "resnet"}, r"control: expected one of fcn, pna, again, got resnet"),
        ({"models": []}, r"models: .*at least 1 item"),
        ({"optimiser": {}}, r"unknown key optimiser: did you mean optimizer\?"),
        ({"data": {"name": "camvid"}}, r"data\.root: expected a value, got none"),
    ],
)
def test_what_is_wrong_with_the_rest_is_named(tree, tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"own\.yaml: .*{message}"):
        load_comparison(write(tmp_path, changed(tree, **changes)))


def test_settings_can_be_overridden(file):
    comparison = load_comparison(file, ["run.batch_size=4", "seeds=[5]", "encoder=resnet18"])
    assert (comparison.run.batch_size, comparison.seeds, comparison.encoder) == (
        4,
        (5,),
        "resnet18",
    )


def test_unknown_comparisons_list_the_known():
    with pytest.raises(FileNotFoundError, match="expected a comparison file or one of .*camvid-li"):
        load_comparison("camvid-light")


@pytest.mark.parametrize("name", bundled_comparisons())
def test_bundled_comparisons_are_whole(name):
    comparison, head = load_comparison(name), comparison_head(name)
    assert head["command"].startswith(f"pna compare {name} -o runs/{name}")
    assert {"shows", "hours"} <= set(head)
    for run in plan(comparison, Path("out")):
        cascade = run.row.cascade
        has_pna = cascade.refine if cascade else PRESETS[run.row.preset].pna is not None
        own = run.recipe.model.overrides.model_dump(exclude_none=True)
        assert has_pna or not {"widths", "window", "residual", "variant"} & set(own), run.name


def test_the_docs_list_every_setting():
    docs = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    for section, prefix in ((Comparison, ""), (ModelRow, "models."), (MeasureSection, "measure.")):
        for name, field in section.model_fields.items():
            is_recipes = section is Comparison and name in Recipe.model_fields
            if not is_recipes and name != "measure":
                assert f"| `{prefix}{name}` | {field.description} |" in docs
