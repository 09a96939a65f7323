"""A network of another library by recipe: alone, then refined as it is; stopped and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch

import pna
from pna.train import load_recipe, train
from pna.train.recipe import ModelSection, Recipe
from pna.train.recipe_files import dump_recipe, parse_recipe

PSPNET = {"library": "smp", "name": "PSPNet", "options": {"encoder_name": "resnet18"}}


def recipe(root: Path, *, steps: int = 2, **cascade: Any) -> Recipe:
    tree: dict[str, Any] = {
        "model": {"cascade": PSPNET | cascade, "pretrained": False},
        "data": {"name": "voc2012", "root": str(root), "crop": [32, 32], "num_workers": 0},
        "schedule": {"steps": steps},
        "run": {"batch_size": 2, "log_every": 1, "tensorboard": False},
    }
    if cascade.get("refine", True):
        tree["model"]["overrides"] = {"widths": [32, 32], "window": 3, "centre": 9.0}
    return parse_recipe(tree, label="recipe")


def test_alone_then_refined_as_it_is(voc_root: Path, tmp_path: Path) -> None:
    train(recipe(voc_root, refine=False), tmp_path / "base")
    base = pna.load(tmp_path / "base" / "model")
    assert base.num_stages == 0

    frozen = recipe(voc_root, weights=str(tmp_path / "base" / "model"), freeze=True, steps=3)
    assert train(frozen, tmp_path / "refined") == "finished"
    refined = pna.load(tmp_path / "refined" / "model")
    assert refined.num_stages == 2
    torch.testing.assert_close(refined.base.state_dict(), base.base.state_dict(), rtol=0, atol=0)
    scores = (tmp_path / "refined" / "evaluation" / "scores.json").read_text()
    assert "PSPNet (smp) + PNA" in scores

    whole = (tmp_path / "refined" / "log.jsonl").read_text().splitlines()
    assert len(whole) == 4  # three steps, and the scores


def test_a_frozen_run_resumes(voc_root: Path, tmp_path: Path) -> None:
    """Batch norm's statistics are those of the file, whatever was run since."""
    torch.manual_seed(5)
    weights = tmp_path / "base.pt"
    network = pna.model.cascade.sources.build_source(
        pna.model.config.SourceConfig(**PSPNET), 21, pretrained=False
    )
    torch.save(network.state_dict(), weights)
    states = []
    for name, parts in {"whole": (4,), "resumed": (2, 4)}.items():
        for part, steps in enumerate(parts):
            settings = recipe(voc_root, weights=str(weights), freeze=True, steps=steps)
            settings = settings.model_copy(
                update={"schedule": settings.schedule.model_copy(update={"power": 0.0})}
            )
            train(settings, tmp_path / name, resume=part > 0)
        states.append(pna.load(tmp_path / name / "model").state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    torch.testing.assert_close(
        {k.removeprefix("base."): x for k, x in states[0].items() if k.startswith("base.")},
        dict(network.state_dict()),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "expected a preset or a cascade, got neither"),
        ({"preset": "lite", "cascade": PSPNET}, "expected a preset or a cascade, got both"),
        ({"cascade": PSPNET | {"freeze": True, "refine": False}}, "something to train"),
        ({"cascade": PSPNET | {"library": "keras"}}, "model.cascade.library"),
        ({"cascade": PSPNET | {"wieghts": "x"}}, "wieghts: did you mean weights"),
        ({"cascade": PSPNET, "encoder": "resnet18"}, "encoder: for presets"),
        ({"cascade": PSPNET, "overrides": {"aux": True}}, "aux: for presets"),
    ],
)
def test_refused(model: dict[str, Any], message: str) -> None:
    tree = {
        "model": model,
        "data": {"name": "voc2012", "root": "data"},
        "schedule": {"steps": 1},
    }
    with pytest.raises(ValueError, match=message):
        parse_recipe(tree, label="recipe")


def test_a_saved_recipe_is_read_again(tmp_path: Path) -> None:
    saved = recipe(tmp_path)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(saved))
    assert load_recipe(tmp_path / "recipe.yaml") == saved


def test_titles() -> None:
    assert ModelSection(preset="lite", encoder="resnet18").title == "lite on resnet18"
    assert ModelSection.model_validate({"cascade": PSPNET}).title == "PSPNet (smp) + PNA"


def test_the_two_of_the_package_go_together() -> None:
    base, refined = (load_recipe(name).model.cascade for name in ("camvid-unet", "camvid-unet-pna"))
    assert base is not None
    assert refined is not None
    same = ("library", "name", "options", "mean", "std")
    assert [getattr(base, key) for key in same] == [getattr(refined, key) for key in same]
    assert refined.weights == "runs/camvid-unet/model"
