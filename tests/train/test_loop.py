import io
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from pna.data import DataError, DataWarning
from pna.labels import VOC
from pna.model.config import ModelConfig
from pna.train.build import augment, create_split, step_batches
from pna.train.log import read_log
from pna.train.processes import Processes, create_accelerator
from pna.train.state import read_checkpoint, save_checkpoint
from pna.train.step import Stepper
from tiny_training import TinySegmenter, in_step, tiny_recipe, tiny_train


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the bit, tensors and numbers alike."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{number}")
    else:
        assert a == b, where


def assert_same_run(run: Path, other: Path) -> None:
    """Same last and best checkpoint, same log but for the time it took."""
    for name in ("last.pt", "best.pt"):
        a, b = read_checkpoint(run / name), read_checkpoint(other / name)
        for key in ("run.checkpoint_every", "data.num_workers"):
            assert a["recipe"].pop(key) is not None
            b["recipe"].pop(key)
        assert_same(a, b, name)
    assert timeless(run) == timeless(other)


def timeless(run: Path) -> list[dict[str, Any]]:
    rows = read_log(run / "log.jsonl")
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def kinds(run: Path) -> list[tuple[str, int]]:
    return [(row["kind"], row["step"]) for row in read_log(run / "log.jsonl")]


def test_a_run_leaves_log_checkpoints_model_and_evaluation(whole: Path) -> None:
    assert kinds(whole) == [
        ("train", 2),
        ("train", 4),
        ("eval", 4),
        ("train", 6),
        ("train", 8),
        ("eval", 8),
        ("final", 8),
    ]
    assert (whole / "model" / "model.safetensors").is_file()
    assert json.loads((whole / "evaluation" / "scores.json").read_text())["num_images"] == 2
    assert not list(whole.glob(".*"))


def test_training_rows_hold_losses_rates_and_speed(whole: Path) -> None:
    row = read_log(whole / "log.jsonl")[0]
    parts = {"loss", "P0", "P1", "P2", "aux"}
    assert parts | {"lr/encoder", "lr/heads", "seconds", "images_per_second"} < row.keys()
    weighted = row["P0"] + 0.1 * (row["P1"] + row["P2"]) + 0.4 * row["aux"]
    assert row["loss"] == pytest.approx(weighted, rel=1e-5)


def test_the_average_of_the_last_weights_is_exported(whole: Path) -> None:
    exported = load_file(whole / "model" / "model.safetensors")
    assert_same(exported, read_checkpoint(whole / "last.pt")["average"])


def test_the_best_weights_are_kept_and_exported_on_request(
    whole: Path, voc_root: Path, tmp_path: Path
) -> None:
    best = read_checkpoint(whole / "best.pt")
    evaluations = [row for row in read_log(whole / "log.jsonl") if row["kind"] == "eval"]
    scores = {row["step"]: row["miou"]["P2"] for row in evaluations}
    assert best["score"] == max(scores.values())
    assert best["step"] == max(scores, key=lambda step: scores[step])
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    best["model"] = {name: x + 1 for name, x in best["model"].items()}  # unlike the last
    save_checkpoint(best, run / "best.pt")
    (run / "log.jsonl").unlink()  # as if it had been stopped before the export
    assert tiny_train(tiny_recipe(voc_root, run__export="best"), run) == "finished"
    assert_same(load_file(run / "model" / "model.safetensors"), best["model"])


@pytest.mark.parametrize(
    ("step", "number", "workers"),
    [
        (1, signal.SIGTERM, 0),
        (4, signal.SIGINT, 0),
        (7, signal.SIGTERM, 2),
        pytest.param(4, signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_is_as_never_stopped(
    voc_root: Path, tmp_path: Path, whole: Path, step: int, number: int, workers: int
) -> None:
    recipe = tiny_recipe(voc_root, data__num_workers=workers)
    run = tmp_path / "run"
    before = signal.getsignal(number)
    event = in_step(step, lambda model: signal.raise_signal(number))
    assert tiny_train(recipe, run, event=event) == "stopped"
    assert signal.getsignal(number) is before
    assert read_checkpoint(run / "last.pt")["step"] == step
    assert not (run / "model").exists()
    assert tiny_train(recipe, run) == "finished"
    assert_same_run(run, whole)


def test_a_longer_schedule_goes_on_from_the_end(voc_root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny_train(tiny_recipe(voc_root, schedule__steps=4), run)
    assert tiny_train(tiny_recipe(voc_root, schedule__steps=6), run) == "finished"
    assert kinds(run) == [
        ("train", 2),
        ("train", 4),
        ("eval", 4),
        ("train", 6),
        ("eval", 6),
        ("final", 6),
    ]


def test_a_finished_run_is_left_alone(whole: Path, voc_root: Path) -> None:
    before = (whole / "last.pt").stat().st_mtime_ns
    assert tiny_train(tiny_recipe(voc_root), whole) == "finished"
    assert (whole / "last.pt").stat().st_mtime_ns == before


def test_another_recipe_is_refused(voc_root: Path, whole: Path) -> None:
    recipe = tiny_recipe(voc_root, optimizer__lr=3e-4, schedule__steps=9)
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.0001, is 0\.0003"):
        tiny_train(recipe, whole)


def test_dropout_is_on_and_differs_between_steps(voc_root: Path, tmp_path: Path) -> None:
    seen = []

    def watch(model: TinySegmenter) -> None:
        if model.training:
            seen.append(torch.get_rng_state())

    recipe = tiny_recipe(voc_root, schedule__steps=2, run__eval_every=None)
    tiny_train(recipe, tmp_path / "run", event=watch)
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])


def break_loss(model: TinySegmenter) -> None:
    model.coarse_head.bias.data.fill_(math.nan)


def break_gradient(model: TinySegmenter) -> None:
    model.coarse_head.bias.register_hook(lambda grad: grad * math.inf)


@pytest.mark.parametrize("act", [break_loss, break_gradient])
def test_not_finite_stops_and_overwrites_nothing(voc_root: Path, tmp_path: Path, act: Any) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(voc_root, run__checkpoint_every=1)
    message = r"^step 4: expected finite numbers, got .* on the images 2007_\d+, 2007_\d+: "
    with pytest.raises(FloatingPointError, match=message):
        tiny_train(recipe, run, event=in_step(4, act))
    last = read_checkpoint(run / "last.pt")
    assert last["step"] == 3
    assert all(x.isfinite().all() for x in last["model"].values())


def test_speed_counts_the_steps_that_were_timed(voc_root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(voc_root, run__log_every=4, schedule__steps=4)
    run = tmp_path / "run"
    stop = in_step(3, lambda model: signal.raise_signal(signal.SIGTERM))
    assert tiny_train(recipe, run, event=stop) == "stopped"
    tiny_train(recipe, run)
    row = read_log(run / "log.jsonl")[0]
    images = row["seconds"] * row["images_per_second"]
    assert images == pytest.approx(2)  # one step of two images since the resume


def unlabeled(root: Path, folder: Path, split: str) -> Path:
    """A copy of the data set in which no pixel of a split has a class."""
    from PIL import Image

    copy = Path(shutil.copytree(root, folder / f"without-{split}"))
    home = copy / "VOCdevkit" / "VOC2012"
    for name in (home / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split():
        file = home / "SegmentationClass" / f"{name}.png"
        mask = Image.open(file)
        mask.paste(255, (0, 0, *mask.size))
        mask.save(file)
    return copy


def test_an_unlabeled_validation_set_has_no_best(voc_root: Path, tmp_path: Path) -> None:
    root, run = unlabeled(voc_root, tmp_path, "val"), tmp_path / "run"
    recipe = tiny_recipe(root, schedule__steps=2, run__eval_every=1)
    with pytest.warns(DataWarning, match="every pixel is ignored"):
        assert tiny_train(recipe, run) == "finished"
    rows = read_log(run / "log.jsonl")
    assert {row["miou"]["P2"] for row in rows if row["kind"] == "eval"} == {None}
    assert not (run / "best.pt").exists()


@pytest.mark.parametrize("steps", [2, 8])
def test_a_training_without_labels_is_no_success(
    voc_root: Path, tmp_path: Path, steps: int
) -> None:
    """Not at the end of a short run, and not after the first epoch (3 steps) of a longer one."""
    recipe = tiny_recipe(unlabeled(voc_root, tmp_path, "train"), schedule__steps=steps)
    message = rf"^nothing to learn from: of {2 * min(steps, 3)} training crops, no pixel has a cla"
    with (
        pytest.warns(DataWarning, match="^in 6 masks every pixel is ignored"),
        pytest.raises(ValueError, match=message),
    ):
        tiny_train(recipe, tmp_path / "run")


def test_gradients_are_clipped(voc_root: Path) -> None:
    recipe = tiny_recipe(voc_root, optimizer__clip_norm=0.01)
    accelerator = create_accelerator(recipe)
    model = TinySegmenter(ModelConfig("tiny", "none"), VOC).train()
    stepper = Stepper(recipe, model, accelerator, Processes(accelerator))
    norms = []

    def watch(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    stepper.optimizer.optimizer.register_step_pre_hook(watch)
    samples = augment(create_split(recipe.data, "train"), recipe.data, seed=0)
    for step, parts in zip(range(2), step_batches(samples, recipe), strict=False):
        stepper.take(step, parts)
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_it_learns(voc_root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(
        voc_root,
        optimizer__lr=2e-2,
        loss__class_weights=[0.5] + [1.0] * 20,
        schedule__steps=40,
        run__eval_every=None,
        run__log_every=10,
        run__precision="bf16",
    )
    tiny_train(recipe, tmp_path / "run")
    rows = read_log(tmp_path / "run" / "log.jsonl")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_one_image_under_batch_norm_names_the_settings(voc_root: Path) -> None:
    """A network that pools to 1x1: torch's own message speaks of values per channel."""
    recipe = tiny_recipe(voc_root, run__batch_size=2, run__accumulation=2)
    accelerator = create_accelerator(recipe)
    model = TinySegmenter(ModelConfig("tiny", "none"), VOC).train()
    model.encoder.append(torch.nn.AdaptiveAvgPool2d(1)).append(torch.nn.BatchNorm2d(8))
    model.coarse_head = torch.nn.Sequential(
        torch.nn.Conv2d(8, 21, 1), torch.nn.Upsample(scale_factor=2)
    )
    stepper = Stepper(recipe, model, accelerator, Processes(accelerator))
    samples = augment(create_split(recipe.data, "train"), recipe.data, seed=0)
    message = r"^batch norm needs .* got 1 \(run\.batch_size 2, run\.accumulation 2, 1 processes\)"
    with pytest.raises(ValueError, match=message):
        stepper.take(0, next(step_batches(samples, recipe)))


def test_an_uneven_batch_is_refused(voc_root: Path) -> None:
    recipe = tiny_recipe(voc_root, run__batch_size=4, run__accumulation=2)
    message = r"^expected run\.batch_size \(4\) to be a multiple of .* \(2 x 3\)"
    with pytest.raises(ValueError, match=message):
        next(step_batches([], recipe, world_size=3))  # type: ignore[arg-type]


@pytest.fixture
def damaged_root(voc_root: Path, tmp_path: Path) -> Path:
    """A training image cut off, a validation mask that is none."""
    root = Path(shutil.copytree(voc_root, tmp_path / "damaged"))
    home = root / "VOCdevkit" / "VOC2012"
    image = home / "JPEGImages" / "2007_000001.jpg"
    image.write_bytes(image.read_bytes()[:200])
    (home / "SegmentationClass" / "2007_000006.png").write_bytes(b"no image")
    return root


def test_a_bad_image_ends_the_run_until_skipping_is_turned_on(
    damaged_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match=r"2007_000001\.jpg"):
        tiny_train(tiny_recipe(damaged_root, run__checkpoint_every=1), run)
    skipping = tiny_recipe(damaged_root, run__checkpoint_every=1, data__skip_bad=True)
    assert read_checkpoint(run / "last.pt")["step"] >= 1
    assert tiny_train(skipping, run) == "finished"


def test_bad_images_are_skipped_on_request_and_listed(damaged_root: Path, tmp_path: Path) -> None:
    """Stopped and resumed, with and without workers: the same run, the same list."""
    recipe = tiny_recipe(damaged_root, data__skip_bad=True)
    whole, run, console = tmp_path / "whole", tmp_path / "run", Console(file=io.StringIO())
    assert tiny_train(recipe, whole, console=console) == "finished"
    shared = tiny_recipe(damaged_root, data__skip_bad=True, data__num_workers=2)
    stop = in_step(5, lambda model: signal.raise_signal(signal.SIGTERM))
    assert tiny_train(shared, run, event=stop) == "stopped"
    assert tiny_train(shared, run) == "finished"
    assert_same_run(run, whole)
    assert len(read_checkpoint(run / "last.pt")["unreadable"]) == 1
    listed = read_log(run / "log.jsonl")[-1]["unreadable"]
    assert ["2007_000001.jpg" in listed[0], "2007_000006.png" in listed[1]] == [True, True]
    assert len(listed) == 2
    assert console.file.getvalue().count("could not be read") == 2  # type: ignore[attr-defined]
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert (scores["num_images"], len(scores["unreadable"])) == (1, 1)
