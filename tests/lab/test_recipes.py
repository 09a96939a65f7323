"""The paper's recipes: each loads, builds its network, and names its row of the paper."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from pna.data import DATASETS
from pna.lab.baselines import PRESETS
from pna.labels import generic
from pna.train import bundled_recipes, load_recipe, recipe_head
from pna.train.build import create_network

FOLDERS = (resources.files("pna.lab") / "recipes",)
NAMES = bundled_recipes(FOLDERS)
HEADS = {name: recipe_head(name, FOLDERS) for name in NAMES}
RECIPES = {name: load_recipe(name, folders=FOLDERS, presets=PRESETS) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_its_head_names_row_command_hours_and_score(name):
    head = HEADS[name]
    assert {"paper", "command", "hours", "score"} <= head.keys()
    assert head["paper"].startswith(("Table ", "none"))
    assert head["command"] == f"pna train {name} -o runs/{name} --set data.root=PATH"


def test_no_two_recipes_are_of_one_row():
    rows = [head["paper"] for head in HEADS.values() if head["paper"] != "none"]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_its_network_is_built(name):
    recipe = RECIPES[name]
    assert recipe.data.name in DATASETS
    with torch.device("meta"):
        model = create_network(recipe.model, generic(3), pretrained=False, presets=PRESETS)
    assert ("pna" in name) == (recipe.model.pna is not None)
    assert model.num_stages > 0 or "pna" not in name
    assert recipe.model.preset in PRESETS


PAIRS = [(name, name.partition("-pna")[0]) for name in NAMES if "-pna" in name]


@pytest.mark.parametrize(("name", "base"), [pair for pair in PAIRS if pair[1] in RECIPES])
def test_rows_with_and_without_pna_share_their_training(name, base):
    """They differ in the network and the losses of the stages alone."""
    with_pna, without = RECIPES[name], RECIPES[base]
    assert with_pna.data == without.data
    assert with_pna.optimizer == without.optimizer
    assert with_pna.schedule == without.schedule
    assert with_pna.loss.coarse_kind == without.loss.coarse_kind


def test_the_page_of_the_papers_tables_lists_them_all():
    page = (Path(__file__).parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    missing = [name for name, head in HEADS.items() if f"`{name}`" not in page]
    assert missing == [name for name in missing if HEADS[name]["paper"] == "none"]
    for name, head in HEADS.items():
        (row, *_) = [line for line in page.splitlines() if f"| `{name}` |" in line] or [""]
        score = head["score"].removeprefix("mIoU ").partition(" ")[0]
        assert not row or score in row, name


def test_the_librarys_recipes_are_elsewhere():
    assert not set(NAMES) & set(bundled_recipes())
    assert Path(str(FOLDERS[0])).is_dir()
