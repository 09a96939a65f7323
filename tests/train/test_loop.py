import io
import json
import math
import shutil
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from pna.data import DataError
from pna.train.checkpoint import read_checkpoint, save_atomically
from pna.train.log import read_log
from pna.train.loop import Trainer

TINY = Path(__file__).with_name("tiny.py")


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


@pytest.fixture(scope="module")
def whole(tiny: ModuleType, voc_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    run: Path = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.tiny_trainer(tiny.tiny_recipe(voc_root), run, console=quiet()).run() == "finished"
    return run


def quiet() -> Console:
    return Console(file=io.StringIO())


def stopping(kind: type[Trainer], step: int, number: int) -> type[Trainer]:
    """A trainer that gets a signal in the middle of a step."""

    class Stopping(kind):  # type: ignore[misc, valid-type]
        def _take_step(self, parts: Any) -> None:
            super()._take_step(parts)
            if self.step == step:
                signal.raise_signal(number)

    return Stopping


def test_a_run_leaves_log_checkpoints_model_and_evaluation(whole: Path) -> None:
    rows = [(row["kind"], row["step"]) for row in read_log(whole / "log.jsonl")]
    assert rows == [
        ("train", 2),
        ("train", 4),
        ("eval", 4),
        ("train", 6),
        ("train", 8),
        ("eval", 8),
        ("final", 8),
    ]
    assert (whole / "model" / "weights.pt").is_file()
    assert json.loads((whole / "evaluation" / "scores.json").read_text())["num_pictures"] == 2
    assert not list(whole.glob("*.writing"))


def test_training_rows_hold_losses_rates_and_speed(whole: Path) -> None:
    row = read_log(whole / "log.jsonl")[0]
    parts = {"loss", "P0", "P1", "P2", "aux"}
    assert parts | {"lr/encoder", "lr/heads", "seconds", "pictures_per_second"} < row.keys()
    weighted = row["P0"] + 0.1 * (row["P1"] + row["P2"]) + 0.4 * row["aux"]
    assert row["loss"] == pytest.approx(weighted, rel=1e-5)


def test_the_last_weights_are_exported(whole: Path) -> None:
    exported = torch.load(whole / "model" / "weights.pt", weights_only=True)
    assert_same(exported, read_checkpoint(whole / "last.pt")["average"])


def test_the_best_weights_are_kept_and_exported_on_request(
    tiny: ModuleType, whole: Path, voc_root: Path, tmp_path: Path
) -> None:
    best = read_checkpoint(whole / "best.pt")
    evaluations = [row for row in read_log(whole / "log.jsonl") if row["kind"] == "eval"]
    scores = {row["step"]: row["miou"]["P2"] for row in evaluations}
    assert best["score"] == max(scores.values())
    assert best["step"] == max(scores, key=lambda step: scores[step])
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    best["model"] = {name: x + 1 for name, x in best["model"].items()}  # unlike the last
    save_atomically(best, run / "best.pt")
    recipe = tiny.tiny_recipe(voc_root, run__export="best")
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"
    exported = torch.load(run / "model" / "weights.pt", weights_only=True)
    assert_same(exported, best["model"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4, 7])
def test_stopped_and_resumed_is_as_never_stopped(
    tiny: ModuleType,
    voc_root: Path,
    tmp_path: Path,
    whole: Path,
    step: int,
    number: int,
    workers: int,
) -> None:
    recipe = tiny.tiny_recipe(voc_root, data__num_workers=workers)
    run = tmp_path / "run"
    kind = stopping(Trainer, step, number)
    before = signal.getsignal(number)
    assert tiny.tiny_trainer(recipe, run, kind=kind, console=quiet()).run() == "stopped"
    assert signal.getsignal(number) is before
    assert read_checkpoint(run / "last.pt")["step"] == step
    assert not (run / "model").exists()
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"
    assert_same_run(run, whole)


def test_a_longer_schedule_goes_on_from_the_end(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tiny.tiny_trainer(tiny.tiny_recipe(voc_root, schedule__steps=4), run, console=quiet()).run()
    trainer = tiny.tiny_trainer(tiny.tiny_recipe(voc_root, schedule__steps=6), run, console=quiet())
    assert trainer.step == 4
    assert trainer.run() == "finished"
    rows = [(row["kind"], row["step"]) for row in read_log(run / "log.jsonl")]
    assert rows == [
        ("train", 2),
        ("train", 4),
        ("eval", 4),
        ("train", 6),
        ("eval", 6),
        ("final", 6),
    ]


def test_another_recipe_is_refused(tiny: ModuleType, voc_root: Path, whole: Path) -> None:
    recipe = tiny.tiny_recipe(voc_root, optimizer__lr=3e-4)
    with pytest.raises(ValueError, match=r"optimizer\.lr was 0\.0001, is 0\.0003"):
        tiny.tiny_trainer(recipe, whole)


def test_dropout_is_on_and_differs_between_steps(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    seen = []

    class Watching(Trainer):
        def _take_step(self, parts: Any) -> None:
            super()._take_step(parts)
            seen.append(torch.get_rng_state())

    recipe = tiny.tiny_recipe(voc_root, schedule__steps=2, run__eval_every=None)
    trainer = tiny.tiny_trainer(recipe, tmp_path / "run", kind=Watching, console=quiet())
    assert trainer.model.training
    trainer.run()
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_stops_and_overwrites_nothing(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, what: str
) -> None:
    class Poisoned(Trainer):
        def _take_step(self, parts: Any) -> None:
            if self.step == 3:
                self.poison()
                self.names = [name for batch in parts for name in batch.name]
            super()._take_step(parts)

        def poison(self) -> None:
            if what == "loss":
                self.model.coarse_head.bias.data.fill_(math.nan)
            else:
                self.model.coarse_head.bias.register_hook(lambda grad: grad * math.inf)

    run = tmp_path / "run"
    recipe = tiny.tiny_recipe(voc_root, run__checkpoint_every=1)
    trainer = tiny.tiny_trainer(recipe, run, kind=Poisoned, console=quiet())
    with pytest.raises(FloatingPointError, match="step 4: expected finite numbers, got") as caught:
        trainer.run()
    assert all(name in str(caught.value) for name in trainer.names)
    last = read_checkpoint(run / "last.pt")
    assert last["step"] == 3
    assert all(x.isfinite().all() for x in last["model"].values())


def test_speed_counts_the_steps_that_were_timed(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    recipe = tiny.tiny_recipe(voc_root, run__log_every=4, schedule__steps=4)
    run = tmp_path / "run"
    tiny.tiny_trainer(recipe, run, kind=stopping(Trainer, 3, signal.SIGTERM), console=quiet()).run()
    tiny.tiny_trainer(recipe, run, console=quiet()).run()
    row = read_log(run / "log.jsonl")[0]
    pictures = row["seconds"] * row["pictures_per_second"]
    assert pictures == pytest.approx(2)  # one step of two pictures since the resume


def test_an_unlabelled_validation_set_has_no_best(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.tiny_recipe(voc_root, schedule__steps=2, run__eval_every=1)
    trainer = tiny.tiny_trainer(recipe, tmp_path / "run", console=quiet())
    load = trainer.val_set.load
    monkeypatch.setattr(
        trainer.val_set,
        "load",
        lambda index: load(index)._replace(labels=torch.full_like(load(index).labels, 255)),
    )
    assert trainer.run() == "finished"
    rows = read_log(trainer.folder / "log.jsonl")
    assert {row["miou"]["P2"] for row in rows if row["kind"] == "eval"} == {None}
    assert trainer.best is None
    assert not (trainer.folder / "best.pt").exists()


def test_gradients_are_clipped(tiny: ModuleType, voc_root: Path, tmp_path: Path) -> None:
    norms = []
    recipe = tiny.tiny_recipe(voc_root, optimizer__clip_norm=0.01, schedule__steps=2)
    trainer = tiny.tiny_trainer(recipe, tmp_path / "run", console=quiet())

    def watch(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    trainer.stepper.optimizer.optimizer.register_step_pre_hook(watch)
    trainer.run()
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_it_learns(tiny: ModuleType, voc_root: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe(
        voc_root,
        optimizer__lr=2e-2,
        schedule__steps=40,
        run__eval_every=None,
        run__log_every=10,
        run__precision="bf16",
    )
    run = tmp_path / "run"
    tiny.tiny_trainer(recipe, run, console=quiet()).run()
    losses = [row["loss"] for row in read_log(run / "log.jsonl") if row["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_an_uneven_batch_is_refused(tiny: ModuleType, voc_root: Path) -> None:
    from pna.train.batches import step_batches

    recipe = tiny.tiny_recipe(voc_root, run__batch_size=4, run__accumulation=2)
    with pytest.raises(ValueError, match=r"run\.batch_size \(4\) to be a multiple of .* \(2 x 3\)"):
        next(step_batches([], recipe, world_size=3))  # type: ignore[arg-type]


@pytest.fixture
def damaged_root(voc_root: Path, tmp_path: Path) -> Path:
    """A training picture cut off, a validation mask that is none."""
    root = Path(shutil.copytree(voc_root, tmp_path / "damaged"))
    home = root / "VOCdevkit" / "VOC2012"
    picture = home / "JPEGImages" / "2007_000001.jpg"
    picture.write_bytes(picture.read_bytes()[:200])
    (home / "SegmentationClass" / "2007_000006.png").write_bytes(b"no picture")
    return root


def test_a_bad_picture_ends_the_run_by_default(
    tiny: ModuleType, damaged_root: Path, tmp_path: Path
) -> None:
    trainer = tiny.tiny_trainer(tiny.tiny_recipe(damaged_root), tmp_path / "run", console=quiet())
    with pytest.raises(DataError, match=r"2007_000001\.jpg"):
        trainer.run()


def test_bad_pictures_are_skipped_on_request_and_listed(
    tiny: ModuleType, damaged_root: Path, tmp_path: Path
) -> None:
    """Stopped and resumed, with and without workers: the same run, the same list."""
    recipe = tiny.tiny_recipe(damaged_root, data__skip_bad=True)
    whole, run, console = tmp_path / "whole", tmp_path / "run", quiet()
    assert tiny.tiny_trainer(recipe, whole, console=console).run() == "finished"
    shared = tiny.tiny_recipe(damaged_root, data__skip_bad=True, data__num_workers=2)
    kind = stopping(Trainer, 5, signal.SIGTERM)
    assert tiny.tiny_trainer(shared, run, kind=kind, console=quiet()).run() == "stopped"
    assert tiny.tiny_trainer(shared, run, console=quiet()).run() == "finished"
    assert_same_run(run, whole)
    assert len(read_checkpoint(run / "last.pt")["unreadable"]) == 1
    listed = read_log(run / "log.jsonl")[-1]["unreadable"]
    assert ["2007_000001.jpg" in listed[0], "2007_000006.png" in listed[1]] == [True, True]
    assert len(listed) == 2
    assert console.file.getvalue().count("could not be read") == 2  # type: ignore[attr-defined]
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert (scores["num_pictures"], len(scores["unreadable"])) == (1, 1)


def test_skipping_can_be_turned_on_to_resume(
    tiny: ModuleType, damaged_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    every = tiny.tiny_recipe(damaged_root, run__checkpoint_every=1)
    with pytest.raises(DataError):
        tiny.tiny_trainer(every, run, console=quiet()).run()
    skipping = tiny.tiny_recipe(damaged_root, run__checkpoint_every=1, data__skip_bad=True)
    assert read_checkpoint(run / "last.pt")["step"] >= 1
    assert tiny.tiny_trainer(skipping, run, console=quiet()).run() == "finished"
