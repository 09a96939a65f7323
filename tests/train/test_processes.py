"""Several processes, launched as `torchrun` does: equal to one, and told of each other's end."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from pna.data import create_dataset
from pna.data.synthetic import write_voc
from pna.evaluate import evaluate
from pna.train.assemble import create_trainer
from pna.train.checkpoint import read_checkpoint
from pna.train.faults import TrainingError
from pna.train.log import read_log
from pna.train.processes import check_joined, explain_lost_process


def quiet() -> Console:
    return Console(file=io.StringIO())


def frozen(tiny: ModuleType, root: Path, **changes: Any) -> Any:
    """A run where a picture's gradient is its own affair: frozen norms, no dropout, float64."""
    changes = {"run__batch_size": 4, "schedule__steps": 5, **changes, "model__preset": "frozen"}
    changes["data__crop"] = [96, 96]  # larger than some pictures: the padding is ignored
    return tiny.tiny_recipe(root, **changes)


def hard(accumulation: int) -> dict[str, Any]:
    kinds = {"loss__coarse_kind": "hard_pixels", "loss__stage_kind": "hard_pixels"}
    return {**kinds, "run__accumulation": accumulation}


LOSSES: dict[str, dict[str, Any]] = {
    "entropy": {},
    "entropy_accumulated": {"run__accumulation": 2},
    "hard": hard(1),
    "hard_accumulated": hard(2),
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


@pytest.mark.parametrize("kind", ["entropy", "hard"])
def test_accumulated_parts_equal_one_batch(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, kind: str
) -> None:
    for name, accumulation in (("whole", 1), ("parts", 4)):
        changes = {**LOSSES[kind], "run__accumulation": accumulation}
        recipe = frozen(tiny, voc_root, **changes)
        tiny.tiny_trainer(recipe, tmp_path / name, console=quiet()).run()
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_looking_ahead_leaves_no_trace(tiny: ModuleType, voc_root: Path, tmp_path: Path) -> None:
    """All pixels are hard: dropout and batch norm's averages are as with plain cross-entropy."""
    ends = []
    for name, loss in (("plain", {}), ("hard", {**hard(2), "loss__hard_share": 1.0})):
        changes = {"run__accumulation": 2, "run__batch_size": 4, "schedule__steps": 3, **loss}
        recipe = tiny.tiny_recipe(voc_root, **changes)
        tiny.tiny_trainer(recipe, tmp_path / name, console=quiet()).run()
        ends.append(read_checkpoint(tmp_path / name / "last.pt")["model"])
    assert int(ends[0]["encoder.1.num_batches_tracked"]) == 6
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("num_nodes", [1, 2])
def test_two_processes_equal_one(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, num_nodes: int
) -> None:
    recipes = {name: frozen(tiny, voc_root, **changes) for name, changes in LOSSES.items()}
    done = tiny.launch_two(recipes, tmp_path, num_nodes=num_nodes)
    assert [node.returncode for node in done] == [0] * num_nodes, done
    for name, recipe in recipes.items():
        tiny.tiny_trainer(recipe, tmp_path / name, console=quiet()).run()
        assert_equal_runs(tmp_path / name, tmp_path / "runs" / name)


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
            [sys.executable, "-m", *LAUNCHERS[launcher], "pna.cli", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            check=False,
            capture_output=True,
            text=True,
        )

    run, scores = tmp_path / "run", tmp_path / "scores"
    small = ["model.pretrained=false", f"data.root={voc_root}", "data.crop=[64,64]"]
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
    assert done.stdout.count("2 pictures") == 1


def test_processes_that_do_not_find_each_other_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="expected the 4 processes .* work together, got 1"):
        check_joined(1)


@pytest.mark.slow
def test_sharded_weights_train_as_whole_ones(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    """FSDP on two processes: weights, moments, logs and scores are those of one without."""
    kinds = {name: LOSSES[name] for name in ("hard_accumulated", "head_without_loss")}
    kinds["clipped"] = {"run__ema": None, "optimizer__clip_norm": 0.01}
    recipes = {name: frozen(tiny, voc_root, **changes) for name, changes in kinds.items()}
    [done] = tiny.launch_two(recipes, tmp_path, "sharded")
    assert done.returncode == 0, done.stderr
    for name, recipe in recipes.items():
        one, two = tmp_path / name, tmp_path / "runs" / name
        tiny.tiny_trainer(recipe, one, console=quiet()).run()
        assert_equal_runs(one, two)
        exported = [torch.load(run / "model" / "weights.pt") for run in (one, two)]
        for key, value in exported[0].items():
            torch.testing.assert_close(exported[1][key], value, rtol=1e-8, atol=1e-8, msg=key)
        ends = [read_log(run / "log.jsonl")[-1] for run in (one, two)]
        assert ends[0] == ends[1]


@pytest.mark.slow
def test_a_run_goes_on_in_shards_and_without(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    """Four steps whole, four in shards, two whole: all the same as ten whole ones."""
    whole = tmp_path / "whole"
    recipe = frozen(tiny, voc_root, schedule__steps=10, schedule__power=0.0)
    tiny.tiny_trainer(recipe, whole, console=quiet()).run()
    run = tmp_path / "runs" / "run"
    run.parent.mkdir()
    for steps, in_shards in ((4, False), (8, True), (10, False)):
        part = frozen(tiny, voc_root, schedule__steps=steps, schedule__power=0.0)
        if in_shards:
            [done] = tiny.launch_two({"run": part}, tmp_path, "sharded")
            assert done.returncode == 0, done.stderr
        else:
            tiny.tiny_trainer(part, run, console=quiet()).run()
    assert_equal_runs(whole, run)


@pytest.mark.slow
@pytest.mark.data
def test_two_processes_equal_one_on_camvid(
    tiny: ModuleType, shared_data: Path, tmp_path: Path
) -> None:
    """A real network on real pictures, 20 steps: the logs agree, and so do the weights."""
    recipe = tiny.tiny_recipe(
        shared_data / "camvid",
        model__preset="lite",
        model__overrides={"drop_path": 0.0},
        data__name="camvid",
        data__crop=[96, 128],
        loss__stage_kind="hard_pixels",
        loss__stage=1.0,
        schedule__steps=20,
        run__batch_size=4,
        run__ema=None,
        run__eval_every=None,
        run__log_every=1,
    )
    one = tmp_path / "camvid"
    tiny.tiny_trainer(recipe, one, kind=tiny.Unfinished, console=quiet()).run()
    [done] = tiny.launch_two({"camvid": recipe}, tmp_path, "unfinished")
    assert done.returncode == 0, done.stderr
    logs = [read_log(run / "log.jsonl") for run in (one, tmp_path / "runs" / "camvid")]
    assert [row["step"] for row in logs[0]] == list(range(1, 21))
    assert logs[0][0]["loss"] > 1.1 * logs[0][-1]["loss"]  # it learns
    for row, other in zip(*logs, strict=True):
        for name in ("loss", "P0", "P1", "P2", "P3", "P4", "lr/encoder", "lr/heads"):
            assert other[name] == pytest.approx(row[name], rel=1e-8), (row["step"], name)
    assert_equal_runs(one, tmp_path / "runs" / "camvid")


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True])
def test_two_processes_equal_one_on_a_cascade(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, freeze: bool
) -> None:
    """A wrapped network may have parameters without a gradient: its own auxiliary head, or all."""
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = {"model_type": "convnext", "out_features": stages, **sizes}
    upernet = {"hidden_size": 16, "auxiliary_in_channels": 24, "backbone_config": backbone}
    recipe = tiny.tiny_recipe(
        voc_root,
        model__preset=None,
        model__pretrained=False,
        model__cascade={
            "library": "transformers",
            "name": "UperNetForSemanticSegmentation",
            "options": upernet,
            "freeze": freeze,
        },
        model__overrides={"widths": [32, 32, 32, 32], "window": 3, "self_aggregation": False},
        schedule__steps=3,
        run__batch_size=4,
        run__log_every=1,
    )
    one = tmp_path / "one"
    assert tiny.tiny_trainer(recipe, one, kind=tiny.Unfinished, console=quiet()).run() == "finished"
    [done] = tiny.launch_two({"cascade": recipe}, tmp_path, "unfinished")
    assert done.returncode == 0, done.stderr
    assert_equal_runs(one, tmp_path / "runs" / "cascade")


@pytest.mark.slow
def test_two_processes_list_all_bad_pictures(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(voc_root, tmp_path / "damaged"))
    home = root / "VOCdevkit" / "VOC2012"
    bad = ["JPEGImages/2007_000001.jpg", "JPEGImages/2007_000004.jpg"]
    bad += ["SegmentationClass/2007_000006.png"]
    for name in bad:
        (home / name).write_bytes(b"no picture")
    recipe = tiny.tiny_recipe(root, data__skip_bad=True, run__batch_size=4)
    [done] = tiny.launch_two({"skipping": recipe}, tmp_path)
    assert done.returncode == 0, done.stderr
    listed = read_log(tmp_path / "runs" / "skipping" / "log.jsonl")[-1]["unreadable"]
    assert len(listed) == 3
    assert all(name in str(listed) for name in bad)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["second-dies", "second-stops"])
def test_a_lost_process_ends_the_others_with_a_message(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, kind: str
) -> None:
    """Killed, or stuck for longer than the limit; then the run goes on in one process."""
    recipe = tiny.tiny_recipe(voc_root, run__batch_size=4, run__timeout=10.0)
    [done] = tiny.launch_two({"run": recipe}, tmp_path, kind)
    assert done.returncode != 0
    assert "process 0 of 2: lost another process" in done.stderr
    assert "continue with --resume" in done.stderr
    run = tmp_path / "runs" / "run"
    assert read_checkpoint(run / "last.pt")["step"] == 4
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"


def test_only_errors_of_the_network_are_explained() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]")
    lost_another = pytest.raises(TrainingError, match="process 1 of 2: lost another")
    with lost_another, explain_lost_process(1, 2):
        raise lost
    for number, error in ((2, RuntimeError("expected scalar type Float")), (1, lost)):
        with pytest.raises(RuntimeError) as caught, explain_lost_process(0, number):
            raise error
        assert caught.value is error


def test_synchronised_batch_norm_needs_gpus(
    tiny: ModuleType, voc_root: Path, tmp_path: Path
) -> None:
    recipe = tiny.tiny_recipe(voc_root, run__sync_batch_norm=True, model__preset="lite")
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"pretrained": 0})})
    with pytest.raises(ValueError, match=r"run\.sync_batch_norm: expected CUDA devices, got cpu"):
        create_trainer(recipe, tmp_path, Accelerator(cpu=True), quiet(), resume=False)


@pytest.mark.slow
def test_two_processes_score_the_model_that_is_exported(tiny: ModuleType, tmp_path: Path) -> None:
    """With running statistics that differ between them, and a picture left over."""
    root = write_voc(tmp_path / "voc", num_train=6, num_val=3, size=(72, 96))
    recipe = tiny.tiny_recipe(root, run__batch_size=4, run__export="best")
    (done,) = tiny.launch_two({"drifted": recipe}, tmp_path, "drifted")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "drifted"
    exported = tiny.TinySegmenter()
    exported.load_state_dict(torch.load(run / "model" / "weights.pt"))
    one = evaluate(exported, create_dataset("voc2012", root, "val"), progress=False)
    found = json.loads((run / "evaluation" / "scores.json").read_text())
    assert found["num_pictures"] == 3
    assert found["stages"] == json.loads(json.dumps(one.to_dict()["stages"]))
