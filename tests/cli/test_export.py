import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import pna
from color_segmenter import ColorSegmenter
from pna.cli import main
from pna.export.refiners import export_mask_refiner
from pna.inference.masks import refine_mask
from pna.inference.opening import open_mask_refiner
from pna.model import loading
from pna.refinement.masks import RefineConfig
from pna.refinement.network import create_mask_refiner

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command on a tiny model."""
    monkeypatch.setattr(loading, "load", lambda name, presets: ColorSegmenter())

    def run_on(*words, out="model.onnx", model="tiny"):
        return main(["export", model, "-o", str(tmp_path / out), *map(str, words)])

    return run_on


def test_from_export_to_label_maps(run, tmp_path, capsys):
    assert run("--stages") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tiny in onnx against PyTorch, batch x channels x height x width:"
    assert len(lines) == 7
    assert lines[1].startswith("  2x3x545x801: difference ")
    assert lines[1].endswith("labels equal 100.00 %")
    assert lines[-1].startswith(f"{tmp_path / 'model.onnx'}: float32, any size, ")
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(tmp_path / "photo.png")
    words = [
        tmp_path / "photo.png",
        "--model",
        tmp_path / "model.onnx",
        "--stages",
        "--tile",
        "4,4",
    ]
    assert main(["segment", *map(str, words), "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["photo_labels.png", "photo_overlay.png", "photo_stages.png"]


def test_pt2_of_one_size_in_half_precision(run, tmp_path, capsys):
    assert run("--to", "pt2", "--size", "8,12", "--half", out="model.pt2") == 0
    assert "float16, images of 8x12 alone" in capsys.readouterr().out
    assert (tmp_path / "model.pt2").is_file()


def test_int8(run, tmp_path, capsys):
    for seed in range(2):
        image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{seed}.png")
    assert run("--int8", tmp_path) == 0
    assert "int8 against float32 on 2 images: labels equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "out", "message"),
    [
        ((), "model.pt2", "expected a name that ends in .onnx"),
        ((), "no/model.onnx", "there is no folder"),
        (("--int8", "nowhere"), "model.onnx", "no image or folder at nowhere"),
    ],
)
def test_wrong_use(run, words, out, message, capsys, tmp_path):
    assert run(*words, out=out) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_place_of_the_file(run, capsys, tmp_path):
    (tmp_path / "model.onnx").mkdir()
    assert run() == 2
    assert "model.onnx is a folder, expected the name of a file" in capsys.readouterr().err


def test_sigterm_leaves_no_file(tmp_path):
    model = tmp_path / "model"
    pna.create_model("lite-fcn", 3, encoder="test_resnet", encoder_weights=None).save_pretrained(
        model
    )
    program = (
        "import os, signal, sys, pna.files, pna.export.write as write\n"
        "def end(program, graph, beside):\n"
        "    beside.write_text('half of it')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "write._write_pt2 = end\n"
        "from pna.__main__ import main\n"
        "sys.exit(main(['export', 'model', '-o', 'a.pt2', '--to', 'pt2']))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.endswith("pna export: interrupted\n")
    assert list(tmp_path.iterdir()) == [model]


def test_one_precision(run, capsys):
    with pytest.raises(SystemExit):
        run("--half", "--int8", "photos")
    assert "not allowed with" in capsys.readouterr().err


def test_an_unknown_model(tmp_path, capsys):
    assert main(["export", "no-such-model", "-o", str(tmp_path / "model.onnx")]) == 2
    assert "no model 'no-such-model'" in capsys.readouterr().err


def test_options_of_segmentation_models(run, capsys):
    assert run("--stages", model="upsampler") == 2
    assert "--stages is for segmentation models, got upsampler" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_the_upsampler(run, tmp_path, to):
    assert run("--to", to, model="upsampler", out=f"model.{to}") == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_a_mask_refiner(tmp_path, to):
    network = create_mask_refiner(encoder_weights=None).eval()
    report = export_mask_refiner(network, tmp_path / f"model.{to}", to=to)
    assert report.description.task == "mask refinement"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_mask_refiner_in_a_file_refines_as_the_network_does(run, tmp_path):
    assert run(model="mask-refiner", out="refiner.onnx") == 0
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3), np.uint8)
    labels = rng.integers(0, 3, (5, 7)).repeat(10, 0).repeat(10, 1)
    in_file = open_mask_refiner(tmp_path / "refiner.onnx", device=torch.device("cpu"))
    network = open_mask_refiner(None, device=torch.device("cpu"))
    found = [
        refine_mask(one, image, labels, RefineConfig(strength=1)) for one in (in_file, network)
    ]
    np.testing.assert_allclose(found[0].wrong, found[1].wrong, atol=0.02)
    assert (found[0].mask == found[1].mask).mean() > 0.98
