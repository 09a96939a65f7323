"""The command line as a whole, `info`, and `demo`."""

import re
import subprocess
import sys

import pytest

from pna import __version__
from pna.cli import COMMANDS, demo, main
from pna.model.checkpoints import bundled_models
from pna.train.recipe_files import bundled_recipes


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: pna {command}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


def test_version_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "pna.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"pna {__version__}"


@pytest.mark.parametrize("arguments", [[], ["paint"], ["info"]])
def test_wrong_use(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_user_errors_are_one_line(capsys):
    assert main(["info", "resnet-soup"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("pna info: no model 'resnet-soup'")
    assert "Traceback" not in err


def test_defects_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("pna.cli.info.run", lambda args: {}["missing"])
    with pytest.raises(KeyError):
        main(["info", "lite"])


def test_info_of_a_preset(capsys):
    assert main(["info", "fcn-pna", "--encoder", "resnet18", "--size", "256", "128"]) == 0
    out = capsys.readouterr().out
    rows = {
        match[1]: [float(x) for x in match[2].split()]
        for match in re.finditer(r"^\s*([a-z][a-z 1-4]+?)\s{2,}([\d. ]+)$", out, re.M)
    }
    parts = ["encoder", "coarse head", "stage 1", "stage 2", "stage 3", "stage 4", "auxiliary head"]
    assert [*rows] == [*parts, "total", "without auxiliary head"]
    for column in range(3):
        assert sum(rows[part][column] for part in parts) == pytest.approx(
            rows["total"][column], abs=0.05
        )
    assert rows["total"][0] - rows["auxiliary head"][0] == pytest.approx(
        rows["without auxiliary head"][0], abs=0.011
    )
    assert "strides 4, 8, 16, 32; 4 refinement stages" in out


def test_info_refuses_an_encoder_for_a_saved_model(capsys):
    assert main(["info", "somewhere/else", "--encoder", "resnet18"]) == 2
    assert "an encoder goes with a preset" in capsys.readouterr().err


@pytest.mark.skipif(
    not {"voc-lite", "damage-lite"} <= {*bundled_models()}, reason="without the bundled models"
)
def test_demo(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"From P0 to P4: mIoU [\d.]+ -> [\d.]+ %, boundary IoU", out)
    names = {path.name for path in (tmp_path / "photos").iterdir()}
    assert {"cat_labels.png", "cat_stages.png", "astronaut_similar.png"} <= names
    strips = sorted(path.name for path in (tmp_path / "damage").glob("*_stages.png"))
    assert len(strips) == 8
    assert (tmp_path / "damage" / "scores.json").is_file()


def test_bundled_pictures_are_pairs():
    pictures = demo.PICTURES / "damage"
    stems = [sorted(p.stem for p in (pictures / kind).iterdir()) for kind in ("images", "masks")]
    assert stems[0] == stems[1]
    assert len(stems[0]) == 8


class TestRecipes:
    def test_lists_all(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "240")
        assert main(["recipes"]) == 0
        out = capsys.readouterr().out
        for name in bundled_recipes():
            assert name in out
        (row,) = (line for line in out.splitlines() if "voc-psp-swint-pna-nam" in line)
        assert 'Table 3, "PSP + PNA (ours, NAM)", Swin-T' in row
        assert "voc2012" in row
        assert "psp-pna on swin_tiny_patch4_window7_224" in row
        assert "mIoU 80.3 in the paper" in row
        assert "pna train RECIPE -o runs/RECIPE" in out

    def test_words_choose(self, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "240")
        assert main(["recipes", "table 4", "resnet101s", "PNA"]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if "Table 4" in line]
        assert [row.split()[0] for row in rows] == [
            "cityscapes-deeplabv3-r101-pna",
            "cityscapes-fpn-r101-pna",
        ]

    def test_nothing_found(self, capsys):
        assert main(["recipes", "table 9"]) == 2
        assert "no recipe holds all of ['table 9']" in capsys.readouterr().err
