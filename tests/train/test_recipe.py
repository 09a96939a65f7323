import inspect
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

import pna
from pna import PNAConfig
from pna.model.loading import bundled_models
from pna.model.presets import PRESETS, Preset, build_fcn
from pna.train import (
    LossConfig,
    Recipe,
    all_settings,
    bundled_recipes,
    dump_recipe,
    load_recipe,
    parse_recipe,
    recipe_head,
)

SMALL = """
model: {preset: lite}
data: {name: voc2012, root: data/voc2012}
schedule: {steps: 10}
"""
UNET = {"library": "smp", "name": "Unet"}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def with_model(model: dict[str, Any], **keywords: Any) -> Recipe:
    return parse_recipe({**yaml.safe_load(SMALL), "model": model}, **keywords)


def test_a_file_holds_the_differences_to_the_defaults(small: Path) -> None:
    recipe = load_recipe(small)
    assert recipe.model.preset == "lite"
    assert recipe.loss == LossConfig(coarse=1.0, stage=0.1, aux=0.4)
    assert recipe.optimizer.betas == (0.9, 0.999)


def test_set_overrides_in_order(small: Path) -> None:
    recipe = load_recipe(
        small,
        [
            "optimizer.lr=1e-3",
            "data.crop=[64, 96]",
            "run.ema=0.9",
            "run.ema=null",
            "model.options.drop_path=0.1",
            "loss.class_weights=[1, 2.5]",
        ],
    )
    assert recipe.optimizer.lr == 1e-3
    assert recipe.data.crop == (64, 96)
    assert recipe.run.ema is None
    assert recipe.model.options.drop_path == 0.1
    assert recipe.loss.class_weights == (1.0, 2.5)


def test_pna_holds_the_differences_to_the_preset(small: Path) -> None:
    lite = PRESETS["lite"].pna
    assert lite is not None
    assert load_recipe(small).model.pna == lite
    changed = load_recipe(small, ["model.pna.window=5", "model.pna.residual=add"]).model.pna
    assert changed == PNAConfig(widths=lite.widths, window=5, residual="add")
    assert with_model({"preset": "fcn-pna"}).model.pna == PNAConfig.released()
    assert with_model({"preset": "lite-fcn"}).model.pna is None
    assert with_model({"cascade": UNET}).model.pna == PNAConfig.for_cascade()
    assert with_model({"cascade": UNET, "pna": None}).model.pna is None
    own = {"mine": Preset(build_fcn, pna=PNAConfig(window=3))}
    recipe = with_model({"preset": "mine", "pna": {"depth": 2}}, presets=own)
    assert recipe.model.pna == PNAConfig(window=3, depth=2)


def test_a_resolved_recipe_reads_back_the_same(small: Path, tmp_path: Path) -> None:
    recipe = load_recipe(small, ["run.precision=no", "run.ema=0.9", "model.pna.window=5"])
    assert load(tmp_path, dump_recipe(recipe)) == recipe
    resolved = yaml.safe_load(dump_recipe(recipe))
    assert resolved["data"]["flip"] == 0.5  # defaults are spelled out
    assert resolved["model"]["pna"]["widths"] == [32, 64, 96, 128]  # and the preset's
    cascade = with_model({"cascade": UNET, "pna": None})
    assert load(tmp_path, dump_recipe(cascade)) == cascade


def test_bare_no_is_a_precision(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "run: {precision: no}").run.precision == "no"


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_text(SMALL, encoding="utf-8-sig")
    assert load_recipe(tmp_path / "bom.yaml").model.preset == "lite"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.batchsize=4", r"unknown key run\.batchsize: did you mean batch_size\?"),
        ("runs={}", r"unknown key runs: did you mean run\?"),
        ("loss.focal=1", r"unknown key loss\.focal: known here are coarse, stage, aux, "),
        ("model.pna.windw=5", r"unknown key model\.pna\.windw: did you mean window\?"),
        ("model.options.rate=5", r"unknown key model\.options\.rate: did you mean rates"),
        ("model.preset=lit", r"model: unknown preset 'lit'; known are .*lite"),
        ("model.pna=null", r"model: preset 'lite' is refined by PNA, got pna: null"),
        ("model.pna.window=4", r"model\.pna: expected odd windows >= 1, got 4"),
        ("run.batch_size=many", r"run\.batch_size: .*integer.*, got 'many'"),
        ("run.batch_size=0", r"run\.batch_size: .*greater than 0, got 0"),
        ("loss.stage_kind=focal", r"loss\.stage_kind: .*'hard_pixels', got 'focal'"),
        ("loss.stage=-1", r"loss: expected a weight stage of 0 or more, got -1"),
        ("run.accumulation=3", r"run: expected batch_size \(16\) to be a multiple of"),
        ("run.seed", r"expected section.key=value"),
        ("=3", r"expected section.key=value"),
        ("run.seed=[1", r"expected a YAML value"),
        ("data.root.folder=x", r"root is no section"),
    ],
)
def test_a_fault_is_named_with_its_file(small: Path, override: str, message: str) -> None:
    file = r".*small\.yaml with --set: |--set .*: "
    with pytest.raises(ValueError, match=rf"^({file}){message}"):
        load_recipe(small, [override])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "model: expected a preset or a cascade, got neither"),
        ({"preset": "lite", "cascade": UNET}, "model: expected a preset or a cascade, got both"),
        ({"preset": "fcn", "pna": {"window": 5}}, "model: preset 'fcn' has no PNA"),
        ({"cascade": UNET | {"freeze": True}, "pna": None}, "model: expected something to train"),
        ({"cascade": UNET | {"library": "keras"}}, r"model\.cascade\.library: .*'smp'"),
        ({"cascade": UNET | {"wieghts": "x"}}, r"unknown key .*wieghts: did you mean weights"),
        ({"cascade": UNET | {"normalize": "no"}}, r"model\.cascade\.normalize: .*'imagenet'"),
        ({"cascade": UNET, "encoder": "resnet18"}, "model: encoder and options are a preset's"),
        ({"cascade": UNET, "options": {"aux": True}}, "model: encoder and options are a preset's"),
    ],
)
def test_networks_that_do_not_go_together(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^recipe: {message}"):
        with_model(model)


def test_every_problem_has_a_line(small: Path) -> None:
    with pytest.raises(ValueError, match="with --set") as caught:
        load_recipe(small, ["data.crops=[1, 1]", "schedule.steps=-1", "optimizer.lr=0"])
    assert len(str(caught.value).splitlines()) == 3


def test_two_ways_to_scale_are_one_too_many(small: Path) -> None:
    with pytest.raises(ValueError, match="data: expected base_size or short_sides, got both"):
        load_recipe(small, ["data.base_size=[64, 32]", "data.short_sides=[64]"])


def test_missing_sections_and_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"schedule: expected a value, got none"):
        load(tmp_path, "model: {preset: lite}\ndata: {name: voc2012, root: x}")
    with pytest.raises(ValueError, match="expected a mapping of sections, got list"):
        load(tmp_path, "[1, 2]")
    with pytest.raises(ValueError, match=r"recipe\.yaml: expected YAML"):
        load(tmp_path, "a: [1")
    unknown = r"^voc-light: expected a recipe file or one of .*voc-lite"
    with pytest.raises(FileNotFoundError, match=unknown):
        load_recipe("voc-light")


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.mkdir [evil]", "!tag x", "[" * 1000, "&a [*a, *a"]
)
def test_a_recipe_with_tags_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(f"model: {value}\n")
    with pytest.raises(ValueError, match=r"^own\.yaml: expected YAML, got"):
        load_recipe("own.yaml")
    with pytest.raises(ValueError, match=r"^--set model.preset=.*: expected a YAML value"):
        load_recipe("voc-lite", [f"model.preset={value}"])
    assert [file.name for file in tmp_path.iterdir()] == ["own.yaml"]


def test_recipes_are_frozen(small: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(small).run.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", bundled_models())
def test_recipes_of_bundled_models_are_recipes(name: str) -> None:
    file = resources.files("pna") / "bundled" / "models" / name / "recipe.yaml"
    recipe = load_recipe(Path(str(file)))
    assert recipe.model.preset == pna.load(name).config.preset


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_are_whole(name: str) -> None:
    recipe = load_recipe(name)
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe
    assert recipe.data.root.startswith("data/")
    assert recipe_head(name)["command"].startswith(f"pna train {name} -o runs/{name}")
    assert {"paper", "hours", "score"} <= recipe_head(name).keys()


def test_recipes_of_other_folders_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"# paper:   none\n{SMALL}")
    folders = (tmp_path,)
    assert bundled_recipes(folders) == ["mine"]
    assert load_recipe("mine", folders=folders).model.preset == "lite"
    assert recipe_head("mine", folders) == {"paper": "none"}
    with pytest.raises(FileNotFoundError, match=r"^voc-lite: expected one of mine; there is no"):
        recipe_head("voc-lite", folders)


def test_the_two_cascades_of_the_package_go_together() -> None:
    base, refined = (load_recipe(name).model.cascade for name in ("camvid-unet", "camvid-unet-pna"))
    assert base is not None
    assert refined is not None
    same = ("library", "name", "options", "normalize")
    assert [getattr(base, key) for key in same] == [getattr(refined, key) for key in same]
    assert refined.weights == "runs/camvid-unet/model"


def test_titles() -> None:
    assert with_model({"preset": "lite", "encoder": "resnet18"}).model.title == "lite on resnet18"
    assert with_model({"cascade": UNET}).model.title == "Unet (smp) + PNA"
    assert with_model({"cascade": UNET, "pna": None}).model.title == "Unet (smp)"


def test_every_setting_is_documented(small: Path) -> None:
    settings = {setting.name: setting for setting in all_settings()}
    assert all(setting.meaning for setting in settings.values())
    resolved = load_recipe(small).flat()
    assert resolved.keys() - {"model.cascade"} <= settings.keys()
    assert settings["loss.stage"].default == "0.1"
    assert settings["schedule.steps"].default == ""
    assert settings["model.pna.window"].meaning.startswith("Side of the neighborhood that")
    assert settings["model.cascade.normalize"].default == "auto"
    assert inspect.getdoc(LossConfig)
