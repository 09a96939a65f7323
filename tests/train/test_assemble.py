import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console

from pna.data.synthetic import write_cityscapes, write_folder
from pna.labels import CITYSCAPES, VOC, generic
from pna.train.assemble import (
    check_folder,
    create_network,
    create_split,
    create_trainer,
    is_finished,
    train,
)
from pna.train.loop import Trainer
from pna.train.recipe import DataSection, ModelOverrides, ModelSection, Recipe


def test_new_and_empty_folders_are_fine(tmp_path: Path) -> None:
    check_folder(tmp_path, resume=False)
    check_folder(tmp_path / "new", resume=False)


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"expected a new or empty folder.* with --resume"):
        check_folder(tmp_path, resume=False)
    with pytest.raises(ValueError, match="got a file"):
        check_folder(tmp_path / "notes.txt", resume=False)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a run with a last\.pt"):
        check_folder(tmp_path, resume=True)


def lite_recipe(root: Path, **overrides: object) -> Recipe:
    settings = {"widths": [32, 32, 32, 32], "window": 3, "coarse_channels": 16, "drop_path": 0.2}
    return Recipe.model_validate(
        {
            "model": {"preset": "lite", "pretrained": False, "overrides": settings},
            "data": {"name": "voc2012", "root": str(root), "crop": [64, 64], "num_workers": 0},
            "loss": {"stage": 1.0},
            "optimizer": {"head_lr": 5e-4},
            "schedule": {"steps": 3},
            "run": {"batch_size": 2, "log_every": 1, "tensorboard": False, "checkpoint_every": 2},
        }
        | overrides
    )


def test_finished_means_exported_at_the_last_step(tmp_path: Path) -> None:
    recipe = lite_recipe(tmp_path)
    log = tmp_path / "log.jsonl"
    assert not is_finished(tmp_path, recipe)
    log.write_text('{"kind": "train", "step": 3}\n')
    assert not is_finished(tmp_path, recipe)
    log.write_text('{"kind": "final", "step": 2}\n')
    assert not is_finished(tmp_path, recipe)
    log.write_text('{"kind": "final", "step": 3}\n')
    assert is_finished(tmp_path, recipe)


def test_recipe_settings_reach_the_network() -> None:
    settings = ModelSection(
        preset="lite", pretrained=False, overrides=ModelOverrides(window=3, widths=(32, 32, 64, 64))
    )
    model = create_network(settings, VOC, pretrained=True)
    assert model.config is not None
    assert model.config.pna is not None
    assert (model.config.pna.window, model.config.pna.widths) == (3, (32, 32, 64, 64))
    assert model.config.pna.residual == "aggregate"  # the preset's
    assert model.labels == VOC


def test_a_folder_data_set_takes_labels_by_name_or_file(tmp_path: Path) -> None:
    root = tmp_path / "own"
    labels = generic(4)
    write_folder(root, labels)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(labels.to_dict()))
    by_file = DataSection(name="folder", root=str(root), labels=str(file), ratio=0.5)
    assert create_split(by_file, "train").labels == labels
    by_name = by_file.model_copy(update={"labels": VOC.name})
    assert create_split(by_name, "train").labels == VOC
    with pytest.raises(FileNotFoundError, match=r"nothing\.json: expected the JSON file"):
        create_split(by_file.model_copy(update={"labels": "nothing.json"}), "train")


def test_a_folder_data_set_takes_lists_of_stems(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", VOC, num_pictures=5)
    stems = sorted(path.stem for path in (root / "images").iterdir())
    lists = {"train_list": stems[:3], "val_list": stems[3:]}
    for name, some in lists.items():
        (tmp_path / name).write_text("\n".join(some))
    data = DataSection(
        name="folder",
        root=str(root),
        labels=VOC.name,
        train_list=str(tmp_path / "train_list"),
        val_list=str(tmp_path / "val_list"),
    )
    assert [pair.name for pair in create_split(data, "train").pairs] == stems[:3]
    assert [pair.name for pair in create_split(data, "val").pairs] == stems[3:]


def test_a_data_set_of_the_paper_is_reached_by_name_and_cached(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "cityscapes", size=(16, 32))
    data = DataSection(
        name="cityscapes",
        root=str(tmp_path / "cityscapes"),
        label_cache=str(tmp_path / "cache"),
        picture_cache=str(tmp_path / "pictures"),
    )
    for use, number in (("train", 4), ("val", 2)):
        split = create_split(data, use)  # type: ignore[arg-type]
        assert (len(split), split.labels) == (number, CITYSCAPES)
        split.load(0)
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 2
    assert len(list((tmp_path / "pictures").rglob("*.npy"))) == 2


def test_a_real_network_trains_resumes_and_says_when_it_is_done(
    voc_root: Path, tmp_path: Path
) -> None:
    """The lite preset, drop-path on, stopped by a shorter schedule and continued."""
    torch.set_num_threads(1)
    run = tmp_path / "run"
    assert train(lite_recipe(voc_root), run) == "finished"
    assert (run / "recipe.yaml").is_file()
    assert (run / "evaluation" / "scores.json").is_file()
    before = (run / "last.pt").stat().st_mtime_ns
    assert train(lite_recipe(voc_root), run, resume=True) == "finished"
    assert (run / "last.pt").stat().st_mtime_ns == before
    assert train(lite_recipe(voc_root, schedule={"steps": 4}), run, resume=True) == "finished"
    assert torch.load(run / "last.pt", weights_only=True)["step"] == 4


def test_a_real_network_resumes_to_the_bit(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norm, dropout and drop-path of a real network; stopped in its second step."""

    class Stopping(Trainer):
        def _take_step(self, parts: Any) -> None:
            super()._take_step(parts)
            if self.step == 2:
                signal.raise_signal(signal.SIGTERM)

    torch.set_num_threads(1)
    train(lite_recipe(voc_root), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("pna.train.assemble.Trainer", Stopping)
        assert train(lite_recipe(voc_root), tmp_path / "stopped") == "stopped"
    assert train(lite_recipe(voc_root), tmp_path / "stopped", resume=True) == "finished"
    a, b = (torch.load(tmp_path / run / "last.pt") for run in ("whole", "stopped"))
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())
    moments = [state["optimizer"]["state"] for state in (a, b)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


def test_a_run_can_be_resumed_from_its_first_moment(
    voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(Trainer):
        def _take_step(self, parts: Any) -> None:
            raise MemoryError("before the first step is done")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("pna.train.assemble.Trainer", Dying)
        with pytest.raises(MemoryError):
            train(lite_recipe(voc_root), run)
    assert torch.load(run / "last.pt")["step"] == 0
    with pytest.raises(ValueError, match="continue that run with --resume"):
        train(lite_recipe(voc_root), run)
    assert train(lite_recipe(voc_root), run, resume=True) == "finished"


def test_limit_keeps_the_first_pictures(voc_root: Path, tmp_path: Path) -> None:
    recipe = lite_recipe(voc_root, data=lite_recipe(voc_root).data.model_dump() | {"limit": 2})
    trainer = create_trainer(recipe, tmp_path, Accelerator(cpu=True), Console(), resume=False)
    assert len(trainer.train_set) == 2
    assert len(trainer.val_set) == 2
