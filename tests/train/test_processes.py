"""Several processes, launched as `torchrun` does: equal to one, and told of each other's end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pna
from pna.data import create_dataset
from pna.data.synthetic import write_voc
from pna.evaluate import evaluate
from pna.train import Recipe
from pna.train.log import read_log
from pna.train.processes import check_joined
from pna.train.state import read_checkpoint
from tiny_training import launch_two, presets_with, tiny_recipe, tiny_train


def frozen(root: Path, **changes: Any) -> Recipe:
    """A run where an image's gradient is its own affair: frozen norms, no dropout, float64."""
    changes = {"run__batch_size": 4, "schedule__steps": 5, "model__preset": "frozen", **changes}
    changes["data__crop"] = [96, 96]  # larger than some images: the padding is ignored
    return tiny_recipe(root, **changes)


LOSSES: dict[str, dict[str, Any]] = {
    "entropy": {},
    "accumulated": {"run__accumulation": 2},
    "weighted": {"loss__class_weights": [0.2] + [1.0] * 20},
    "head_without_loss": {"loss__aux": 0.0, "run__accumulation": 2},
}


def assert_equal_runs(one: Path, two: Path) -> None:
    """Weights, moments of the gradients and logged losses agree to 1e-8."""
    a, b = read_checkpoint(one / "last.pt"), read_checkpoint(two / "last.pt")
    assert a["step"] == b["step"]
    for name, value in a["model"].items():
        torch.testing.assert_close(b["model"][name], value, rtol=1e-8, atol=1e-8, msg=name)
    moments = [saved["optimizer"]["state"] for saved in (a, b)]
    for number, state in moments[0].items():
        for name in ("exp_avg", "exp_avg_sq"):
            size = float(state[name].abs().max())  # of sums, some come out near 0
            torch.testing.assert_close(
                moments[1][number][name],
                state[name],
                rtol=1e-8,
                atol=1e-8 * size,
                msg=f"{number} {name}",
            )
    losses = [
        [row["loss"] for row in read_log(run / "log.jsonl") if row["kind"] == "train"]
        for run in (one, two)
    ]
    assert losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-8)


@pytest.mark.parametrize("loss", ["entropy", "weighted"])
def test_accumulated_parts_equal_one_batch(voc_root: Path, tmp_path: Path, loss: str) -> None:
    for name, accumulation in (("whole", 1), ("parts", 4)):
        recipe = frozen(voc_root, **LOSSES[loss], run__accumulation=accumulation)
        tiny_train(recipe, tmp_path / name)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("num_nodes", [1, 2])
def test_two_processes_equal_one(voc_root: Path, tmp_path: Path, num_nodes: int) -> None:
    recipes = {name: frozen(voc_root, **changes) for name, changes in LOSSES.items()}
    done = launch_two(recipes, tmp_path, num_nodes=num_nodes)
    assert [node.returncode for node in done] == [0] * num_nodes, done
    for name, recipe in recipes.items():
        tiny_train(recipe, tmp_path / name)
        assert_equal_runs(tmp_path / name, tmp_path / "runs" / name)


@pytest.mark.slow
def test_each_process_chooses_its_own_hard_pixels(voc_root: Path, tmp_path: Path) -> None:
    """As accumulated parts do: two processes of two images equal one with two parts."""
    kinds = {"loss__coarse_kind": "hard_pixels", "loss__stage_kind": "hard_pixels"}
    [done] = launch_two({"hard": frozen(voc_root, **kinds)}, tmp_path)
    assert done.returncode == 0, done.stderr
    tiny_train(frozen(voc_root, **kinds, run__accumulation=2), tmp_path / "parts")
    assert_equal_runs(tmp_path / "parts", tmp_path / "runs" / "hard")


LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module"],
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--module"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_commands_are_one_run_under_both_launchers(
    voc_root: Path, tmp_path: Path, launcher: str
) -> None:
    """Without a GPU too, where accelerate needs to be told that the processes belong together."""

    def launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", *LAUNCHERS[launcher], "pna", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=False,
            capture_output=True,
            text=True,
        )

    run, scores = tmp_path / "run", tmp_path / "scores"
    small = ["model.encoder_weights=null", f"data.root={voc_root}", "data.crop=[64,64]"]
    small += ["data.train_split=train", "data.num_workers=0", "schedule.steps=2"]
    small += ["run.batch_size=2", "run.log_every=1", "run.eval_every=null"]
    settings = [option for setting in small for option in ("--set", setting)]
    done = launch("train", "voc-lite", "-o", str(run), *settings)
    assert done.returncode == 0, done.stderr
    rows = read_log(run / "log.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("final", 2),
    ]
    assert done.stdout.count("finished; the model is in") == 1
    model, data = ["--model", str(run / "model")], ["--dataset", "voc2012", "--root", str(voc_root)]
    done = launch("evaluate", *model, *data, "--split", "val", "-o", str(scores))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 images") == 1


def test_processes_that_do_not_find_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="^expected the 4 processes .* work together, got 1"):
        check_joined(1)


@pytest.mark.slow
@pytest.mark.data
def test_two_processes_equal_one_on_camvid(shared_data: Path, tmp_path: Path) -> None:
    """A real network on real images, 6 steps: the logs agree, and so do the weights."""
    root = tmp_path / "some"
    for split, number in (("train", 12), ("val", 1)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
            for file in sorted((shared_data / "camvid" / folder).iterdir())[:number]:
                shutil.copy(file, root / folder)
    recipe = tiny_recipe(
        root,
        model__preset="frozen-lite",
        model__options={"drop_path": 0.0},
        data__name="camvid",
        data__crop=[64, 96],
        loss__stage=1.0,
        schedule__steps=6,
        run__batch_size=4,
        run__ema=None,
        run__eval_every=None,
        run__log_every=1,
    )
    one = tmp_path / "camvid"
    tiny_train(recipe, one)
    [done] = launch_two({"camvid": recipe}, tmp_path)
    assert done.returncode == 0, done.stderr
    logs = [read_log(run / "log.jsonl")[:-1] for run in (one, tmp_path / "runs" / "camvid")]
    assert [row["step"] for row in logs[0]] == list(range(1, 7))
    assert logs[0][0]["loss"] > logs[0][-1]["loss"]  # it learns
    for row, other in zip(*logs, strict=True):
        for name in ("loss", "P0", "P1", "P2", "P3", "P4", "lr/encoder", "lr/heads"):
            assert other[name] == pytest.approx(row[name], rel=1e-8), (row["step"], name)
    assert_equal_runs(one, tmp_path / "runs" / "camvid")


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
def test_two_processes_train_a_cascade(voc_root: Path, tmp_path: Path, freeze: bool) -> None:
    """A wrapped network may have parameters without a gradient: its own auxiliary head, or all."""
    pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = {"model_type": "convnext", "out_features": stages, **sizes}
    upernet = {"hidden_size": 16, "auxiliary_in_channels": 24, "backbone_config": backbone}
    recipe = tiny_recipe(
        voc_root,
        model__preset=None,
        model__encoder_weights=None,
        model__cascade={
            "library": "transformers",
            "name": "UperNetForSemanticSegmentation",
            "options": upernet,
            "freeze": freeze,
            "normalize": "imagenet",
        },
        model__pna={"widths": [32, 32, 32, 32], "window": 3, "self_aggregation": False},
        schedule__steps=3,
        run__batch_size=4,
        run__log_every=1,
        run__eval_every=None,
    )
    one = tmp_path / "one"
    assert tiny_train(recipe, one) == "finished"
    [done] = launch_two({"cascade": recipe}, tmp_path)
    assert done.returncode == 0, done.stderr
    logs = [read_log(run / "log.jsonl") for run in (one, tmp_path / "runs" / "cascade")]
    losses = [[row["loss"] for row in log if row["kind"] == "train"] for log in logs]
    assert len(losses[0]) == len(losses[1]) == 3
    if freeze:  # else batch norm and dropout differ by process
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_list_all_bad_images(voc_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(voc_root, tmp_path / "damaged"))
    home = root / "VOCdevkit" / "VOC2012"
    bad = ["JPEGImages/2007_000001.jpg", "JPEGImages/2007_000004.jpg"]
    bad += ["SegmentationClass/2007_000006.png"]
    for name in bad:
        (home / name).write_bytes(b"no image")
    recipe = tiny_recipe(root, data__skip_bad=True, run__batch_size=4)
    [done] = launch_two({"skipping": recipe}, tmp_path)
    assert done.returncode == 0, done.stderr
    listed = read_log(tmp_path / "runs" / "skipping" / "log.jsonl")[-1]["unreadable"]
    assert len(listed) == 3
    assert all(name in str(listed) for name in bad)


@pytest.mark.slow
@pytest.mark.parametrize("accident", ["second-dies", "second-stops"])
def test_a_lost_process_ends_the_others_with_a_message(
    voc_root: Path, tmp_path: Path, accident: str
) -> None:
    """Killed, or stuck for longer than the limit; then the run goes on in one process."""
    recipe = tiny_recipe(voc_root, run__batch_size=4, run__timeout=10.0)
    [done] = launch_two({"run": recipe}, tmp_path, accident)
    assert done.returncode != 0
    assert "process 0 of 2: lost another process" in done.stderr
    assert "continue with --resume" in done.stderr
    run = tmp_path / "runs" / "run"
    assert read_checkpoint(run / "last.pt")["step"] == 4
    assert tiny_train(recipe, run) == "finished"


def test_synchronized_batch_norm_needs_gpus(voc_root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(voc_root, run__sync_batch_norm=True)
    with pytest.raises(ValueError, match=r"^run\.sync_batch_norm: expected CUDA devices, got cpu"):
        tiny_train(recipe, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_score_the_model_that_is_exported(tmp_path: Path) -> None:
    """With running statistics that differ between them, and an image left over."""
    root = write_voc(tmp_path / "voc", num_train=6, num_val=3, size=(72, 96))
    recipe = tiny_recipe(root, run__batch_size=4, run__export="best")
    [done] = launch_two({"drifted": recipe}, tmp_path, "second-drifts")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "drifted"
    exported = pna.load(run / "model", presets=presets_with())
    one = evaluate(exported, create_dataset("voc2012", root, "val"), progress=False)
    found = json.loads((run / "evaluation" / "scores.json").read_text())
    assert found["num_images"] == 3
    assert found["stages"] == json.loads(json.dumps(one.to_dict()["stages"]))
