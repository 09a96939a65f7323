import inspect
from pathlib import Path
from typing import get_args

import pytest
import yaml

from pna.model.presets import PRESETS, create_model
from pna.train.recipe import ModelOverrides, Recipe
from pna.train.recipe_files import bundled_recipes, dump_recipe, load_recipe, recipe_head

SMALL = """
model: {preset: lite}
data: {name: voc2012, root: data/voc2012}
schedule: {steps: 10}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_a_file_holds_what_differs_from_the_defaults(small: Path) -> None:
    recipe = load_recipe(small)
    assert recipe.model.preset == "lite"
    assert (recipe.loss.coarse, recipe.loss.stage, recipe.loss.aux) == (1.0, 0.1, 0.4)
    assert recipe.optimizer.betas == (0.9, 0.999)


def test_set_overrides_in_order(small: Path) -> None:
    recipe = load_recipe(
        small,
        [
            "optimizer.lr=1e-3",
            "data.crop=[64, 96]",
            "run.ema=0.9",
            "run.ema=null",
            "model.overrides.window=5",
        ],
    )
    assert recipe.optimizer.lr == 1e-3
    assert recipe.data.crop == (64, 96)
    assert recipe.run.ema is None
    assert recipe.model.overrides.window == 5


def test_a_resolved_recipe_reads_back_the_same(small: Path, tmp_path: Path) -> None:
    recipe = load_recipe(small, ["run.precision=no", "run.ema=0.9", "optimizer.lr=3e-5"])
    assert load(tmp_path, dump_recipe(recipe)) == recipe
    resolved = yaml.safe_load(dump_recipe(recipe))
    assert resolved["data"]["flip"] == 0.5  # defaults are spelled out


def test_bare_no_is_a_precision(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL + "run: {precision: no}").run.precision == "no"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {batchsize: 4}", r"recipe\.yaml: unknown key run\.batchsize: did you mean batch_si"),
        ("runs: {}", r"recipe\.yaml: unknown key runs: did you mean run\?"),
        ("loss: {focal: 1}", r"unknown key loss\.focal: known here are coarse, stage, aux, "),
        ("run: {batch_size: many}", r"recipe\.yaml: run\.batch_size: .*integer.*, got 'many'"),
        ("run: {batch_size: 0}", r"run\.batch_size: .*greater than 0, got 0"),
        ("loss: {stage_kind: focal}", r"loss\.stage_kind: .*'hard_pixels', got 'focal'"),
        ("run: {batch_size: 4, accumulation: 3}", r"run: expected batch_size \(4\) to be a multip"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, SMALL + text)


def test_unknown_keys_in_a_nested_section(small: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown key model\.overrides\.windw: did you mean win"):
        load_recipe(small, ["model.overrides.windw=5"])


def test_every_problem_has_a_line(small: Path) -> None:
    with pytest.raises(ValueError, match="with --set") as caught:
        load_recipe(small, ["data.crops=[1, 1]", "schedule.steps=-1", "optimizer.lr=0"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.seed", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("run.seed=[1", "expected a YAML value"),
        ("data.root.folder=x", "root is no section"),
    ],
)
def test_malformed_overrides(small: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(small, [override])


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
    with pytest.raises(
        FileNotFoundError, match=r"voc-light: expected a recipe file or one of .*voc"
    ):
        load_recipe("voc-light")


def test_files_run_no_code(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not determine a constructor"):
        load(tmp_path, "!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_are_whole(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.preset in PRESETS or recipe.model.cascade is not None
    assert recipe.data.root.startswith("data/")


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_say_paper_command_hours_and_score(name: str) -> None:
    folder = Path(inspect.getfile(Recipe)).parent / "recipes"
    head = (folder / f"{name}.yaml").read_text().split("model:")[0]
    assert f"# command: pna train {name} -o runs/{name}" in head
    assert all(f"# {key}:" in head for key in ("paper", "hours", "score"))


def test_voc_recipe_is_the_authors() -> None:
    recipe = load_recipe("voc-fcn-r50-pna")
    assert recipe.data.base_size == (2048, 512)
    assert recipe.data.train_split == "trainaug"
    assert (recipe.schedule.steps, recipe.schedule.warmup_steps) == (20_000, 200)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay) == (1e-4, 1e-4)
    assert (recipe.run.batch_size, recipe.run.precision) == (16, "fp16")
    assert recipe.optimizer.clip_norm is None


def test_every_override_is_an_option_of_create_model() -> None:
    options = inspect.signature(create_model).parameters
    own = {"preset", "encoder", "num_classes", "labels", "pretrained"}
    assert set(ModelOverrides.model_fields) == set(options) - own


def test_recipes_are_frozen(small: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(small).run.seed = 3  # type: ignore[misc]


def field_table() -> str:
    """Markdown rows of every setting: name, default, meaning."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]

    def walk(section: type, prefix: str) -> None:
        for name, field in section.model_fields.items():  # type: ignore[attr-defined]
            kind = field.annotation
            sections = [a for a in get_args(kind) if hasattr(a, "model_fields")]
            if sections:  # one that may be left out
                kind = sections[0]
            if inspect.isclass(kind) and hasattr(kind, "model_fields"):
                walk(kind, f"{prefix}{name}.")
                continue
            default = "" if field.is_required() else f"`{yaml_of(field.default)}`"
            rows.append(f"| `{prefix}{name}` | {default} | {field.description} |")

    walk(Recipe, "")
    return "\n".join(rows)


def yaml_of(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


def test_the_docs_list_every_setting() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    assert field_table() in docs, f"docs/training.md should hold this table:\n{field_table()}"


def test_the_head_of_a_recipe() -> None:
    head = recipe_head("voc-lite")
    assert set(head) >= {"paper", "command", "hours", "score"}
    assert head["command"].startswith("pna train voc-lite -o runs/voc-lite")
    with pytest.raises(FileNotFoundError, match="voc-light: expected one of .*voc-lite"):
        recipe_head("voc-light")
