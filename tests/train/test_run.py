import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import nn

import pna
from pna.data import DataWarning
from pna.data.synthetic import write_cityscapes, write_folder
from pna.labels import CITYSCAPES, VOC, LabelSpace, generic
from pna.model.cascade.sources import build_source
from pna.model.config import SourceConfig
from pna.model.presets import PRESETS, Preset
from pna.train import Recipe, dump_recipe, parse_recipe, train
from pna.train.build import create_network, create_split, init_from
from pna.train.recipe import DataSection
from pna.train.run import check_folder, is_finished
from tiny_training import TinySegmenter, in_step, presets_with, tiny_recipe, tiny_train

SMALL_PNA = {"widths": [32, 32, 32, 32], "window": 3}
PSPNET = {"library": "smp", "name": "PSPNet", "options": {"encoder_name": "resnet18"}}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=500)


def make_recipe(root: Path, model: dict[str, Any], *, steps: int = 2, **sections: Any) -> Recipe:
    tree: dict[str, Any] = {
        "model": {"encoder_weights": None} | model,
        "data": {"name": "voc2012", "root": str(root), "crop": [32, 32], "num_workers": 0},
        "loss": {"stage": 1.0},
        "schedule": {"steps": steps, "power": 0.0},
        "run": {"batch_size": 2, "log_every": 1, "tensorboard": False},
    }
    return parse_recipe(tree | sections)


def lite(**changes: Any) -> dict[str, Any]:
    options = {"coarse_channels": 16, "drop_path": 0.2}
    return {"preset": "lite", "pna": SMALL_PNA, "options": options} | changes


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


def test_finished_means_exported_at_the_last_step(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, lite(), steps=3)
    log = tmp_path / "log.jsonl"
    assert not is_finished(tmp_path, recipe)
    log.write_text('{"kind": "train", "step": 3}\n')
    assert not is_finished(tmp_path, recipe)
    log.write_text('{"kind": "final", "step": 2}\n')
    assert not is_finished(tmp_path, recipe)
    log.write_text('{"kind": "final", "step": 3}\n')
    assert is_finished(tmp_path, recipe)


def test_a_folder_data_set_needs_its_label_space(tmp_path: Path) -> None:
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


def test_one_class_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", generic(2))
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(LabelSpace("one", ("crack",), ((255, 0, 0),)).to_dict()))
    data = DataSection(name="folder", root=str(root), labels=str(file), ratio=0.5)
    with pytest.raises(ValueError, match="^expected 2 classes or more, got crack alone"):
        create_split(data, "train")


def test_class_weights_of_other_classes_are_refused(voc_root: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(voc_root, loss__class_weights=[1.0, 2.0])
    with pytest.raises(
        pna.PnaError, match=r"^loss.class_weights: expected 21, .*tvmonitor\), got 2"
    ):
        tiny_train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_black_and_white_masks_read_as_indices_are_warned_of(tmp_path: Path) -> None:
    """Their white, 255, is ignored: the run learns one class, and says so at the start."""
    root = write_folder(tmp_path / "own", generic(2), size=(64, 64))
    for file in (root / "masks").iterdir():
        mask = np.zeros((64, 64), np.uint8)
        mask[10:40, 10:40] = 255
        Image.fromarray(mask).save(file)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(generic(2).to_dict()))
    recipe = tiny_recipe(root, data__name="folder", data__labels=str(file), schedule__steps=2)
    with pytest.warns(DataWarning) as caught:
        assert tiny_train(recipe, tmp_path / "run") == "finished"
    messages = [str(warning.message) for warning in caught]
    assert messages[0].startswith("in 5 masks besides 255 (ignored) only class 'class_0' occurs")
    assert "read them as colors (masks: color)" in messages[0]
    assert messages[-1].startswith("the labels of Folder: besides 255 (ignored) only class")


def test_a_folder_data_set_takes_lists_of_stems(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own", VOC, num_images=5)
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
        limit=2,
    )
    assert [pair.name for pair in create_split(data, "train").pairs] == stems[:2]  # the first two
    assert [pair.name for pair in create_split(data, "val").pairs] == stems[3:]


def test_a_data_set_of_the_paper_is_reached_by_name(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / "cityscapes", size=(16, 32))
    data = DataSection(name="cityscapes", root=str(tmp_path / "cityscapes"))
    for use, number in (("train", 4), ("val", 2)):
        split = create_split(data, use)  # type: ignore[arg-type]
        assert (len(split), split.labels) == (number, CITYSCAPES)


def test_a_real_network_resumes_to_the_bit(voc_root: Path, tmp_path: Path) -> None:
    """Batch norm, dropout and drop-path of a real network; stopped in its second step."""

    def build(*parts: Any) -> Any:
        model = PRESETS["lite"].build(*parts)
        calls = []

        def stop(module: nn.Module, images: Any) -> None:
            calls.append(module.training)
            if sum(calls) == 2:
                signal.raise_signal(signal.SIGTERM)

        model.register_forward_pre_hook(stop)
        return model

    torch.set_num_threads(1)
    recipe = make_recipe(voc_root, lite(), steps=3)
    assert train(recipe, tmp_path / "whole", console=quiet()) == "finished"
    assert (tmp_path / "whole" / "evaluation" / "scores.json").is_file()
    plain = PRESETS["lite"]
    stopping = {"lite": Preset(build, plain.encoder, plain.options, plain.pna)}
    run = tmp_path / "stopped"
    assert train(recipe, run, presets=stopping, console=quiet()) == "stopped"
    assert train(recipe, run, resume=True, console=quiet()) == "finished"
    a, b = (torch.load(tmp_path / name / "last.pt") for name in ("whole", "stopped"))
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())
    moments = [state["optimizer"]["state"] for state in (a, b)]
    assert all(torch.equal(moments[0][i]["exp_avg"], moments[1][i]["exp_avg"]) for i in moments[0])


def test_a_run_can_be_resumed_from_its_first_moment(voc_root: Path, tmp_path: Path) -> None:
    def fail(model: TinySegmenter) -> None:
        raise MemoryError("before the first step is done")

    run, recipe = tmp_path / "run", tiny_recipe(voc_root, schedule__steps=1)
    with pytest.raises(MemoryError):
        tiny_train(recipe, run, event=in_step(1, fail))
    assert torch.load(run / "last.pt")["step"] == 0
    assert yaml.safe_load((run / "recipe.yaml").read_text())["data"]["flip"] == 0.5
    with pytest.raises(ValueError, match="continue that run with --resume"):
        train(recipe, run, presets=presets_with(), console=quiet())
    assert tiny_train(recipe, run) == "finished"


def test_a_network_that_cannot_be_saved_fails_at_the_start(voc_root: Path, tmp_path: Path) -> None:
    def by_hand(*parts: Any) -> TinySegmenter:
        model = TinySegmenter(*parts)
        model.config = None
        return model

    tiny = Preset(by_hand, "none")
    with pytest.raises(ValueError, match="^this model has no configuration to save"):
        train(tiny_recipe(voc_root), tmp_path / "run", presets={"tiny": tiny}, console=quiet())
    assert not list((tmp_path / "run").iterdir())  # nothing is left behind


STEP = """
import sys, torch, pna
torch.manual_seed(0)
torch.set_num_threads(1)
config = pna.PNAConfig(widths=(32, 32, 32, 32), window=3)
model = pna.create_model("fcn-pna", 5, encoder=sys.argv[1], encoder_weights=None, pna=config)
model.train()
for layout in (torch.contiguous_format, torch.channels_last):
    images = torch.rand(2, 3, 64, 96).contiguous(memory_format=layout)
    labels = torch.randint(5, (2, 64, 96))
    pna.segmentation_loss(model(images), labels, model).total.backward()
junk = [torch.rand(1000) for _ in range(100)]
print("ok")
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["repvgg_a0", "fastvit_t8"])
def test_a_strided_1x1_stem_trains(encoder: str) -> None:
    """In a process of its own: where torch writes past a buffer, it is killed."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, encoder], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_a_cascade_alone_then_refined_as_it_is(voc_root: Path, tmp_path: Path) -> None:
    alone = make_recipe(voc_root, {"cascade": PSPNET | {"normalize": "imagenet"}, "pna": None})
    train(alone, tmp_path / "base", console=quiet())
    base = pna.load(tmp_path / "base" / "model")
    assert base.num_stages == 0

    cascade = PSPNET | {"normalize": "imagenet", "weights": str(tmp_path / "base" / "model")}
    model = {"cascade": cascade | {"freeze": True}, "pna": {"widths": [32, 32], "window": 3}}
    run = tmp_path / "refined"
    assert train(make_recipe(voc_root, model, steps=2), run, console=quiet()) == "finished"
    longer = make_recipe(voc_root, model, steps=3)
    assert train(longer, run, resume=True, console=quiet()) == "finished"
    refined = pna.load(run / "model")
    assert refined.num_stages == 2
    torch.testing.assert_close(refined.base.state_dict(), base.base.state_dict(), rtol=0, atol=0)
    assert "PSPNet (smp) + PNA" in (run / "evaluation" / "scores.json").read_text()


def test_weights_of_a_cascade_are_those_of_the_data_s_classes(
    voc_root: Path, tmp_path: Path
) -> None:
    network = build_source(SourceConfig(**PSPNET), 21, encoder_weights=None)
    other = LabelSpace("other", tuple(f"c{i}" for i in range(21)), generic(21).colors)
    pna.cascade(network, 21, labels=other, normalize=None, pna=None).save_pretrained(
        tmp_path / "model"
    )
    cascade = PSPNET | {"normalize": None, "weights": str(tmp_path / "model")}
    recipe = make_recipe(voc_root, {"cascade": cascade, "pna": None})
    with pytest.raises(ValueError, match=r"expected a model of the data's classes \(background"):
        create_network(recipe.model, VOC)
    torch.save(network.state_dict(), tmp_path / "weights.pt")  # names no classes
    state = {"cascade": PSPNET | {"normalize": None, "weights": str(tmp_path / "weights.pt")}}
    model = create_network(make_recipe(voc_root, state | {"pna": None}).model, VOC)
    torch.testing.assert_close(model.base.state_dict(), network.state_dict(), rtol=0, atol=0)


def save_lite(folder: Path, labels: LabelSpace, **changes: Any) -> Path:
    torch.manual_seed(1)
    settings = make_recipe(Path("x"), lite(**changes)).model
    create_network(settings, labels).save_pretrained(folder)
    return folder


def test_a_run_starts_from_a_saved_model_of_other_classes(voc_root: Path, tmp_path: Path) -> None:
    saved = save_lite(tmp_path / "saved", generic(4))
    recipe = make_recipe(voc_root, lite(init_from=str(saved)), optimizer={"lr": 1e-12})
    console, run = quiet(), tmp_path / "run"
    train(recipe, run, console=console)
    old, new = pna.load(saved).state_dict(), pna.load(run / "model").state_dict()
    for name in ("encoder.body.conv_stem.weight", "refiner.stages.0.embed_feature.weight"):
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-6)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"started from {saved}: " in told
    assert "new: coarse.classifier" in told
    yaml.safe_load(dump_recipe(recipe))
    assert train(recipe, run, resume=True, console=quiet()) == "finished"


@pytest.mark.parametrize("same", [True, False])
def test_as_many_classes_of_other_names_get_new_classifiers(tmp_path: Path, same: bool) -> None:
    names = VOC.classes if same else (VOC.classes[1], VOC.classes[0], *VOC.classes[2:])
    saved = save_lite(tmp_path / "saved", LabelSpace("other", names, VOC.colors))
    recipe = make_recipe(tmp_path, lite(init_from=str(saved)))
    torch.manual_seed(2)
    model = create_network(recipe.model, VOC)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    message = init_from(model, str(saved), recipe.model)
    old, new = pna.load(saved).state_dict(), model.state_dict()
    classifier = next(name for name in new if name.startswith("coarse.classifier.1"))
    assert torch.equal(new[classifier], old[classifier] if same else before[classifier])
    stem = "encoder.body.conv_stem.weight"
    assert torch.equal(new[stem], old[stem])
    assert ("new: " in message) != same


def test_a_saved_model_on_another_encoder_is_refused(tmp_path: Path) -> None:
    saved = save_lite(tmp_path / "saved", VOC, encoder="resnet18")
    recipe = make_recipe(tmp_path, lite(init_from=str(saved)))
    model = create_network(recipe.model, VOC)
    with pytest.raises(ValueError, match=r"^model\.init_from .*: expected a model on the same enc"):
        init_from(model, str(saved), recipe.model)
