"""The command line as a whole, `info`, `recipes` and `demo`."""

import errno
import re
import subprocess
import sys
import warnings

import pytest

from pna import __version__
from pna.__main__ import main
from pna.cli import COMMANDS, Command, Setup, demo
from pna.cli import main as library_main
from pna.errors import PnaError
from pna.lab.cli import COMMANDS as LAB_COMMANDS
from pna.model.loading import bundled_models


def run_code(code):
    """Standard output of Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    return done.stdout.strip()


@pytest.mark.parametrize("command", [*COMMANDS, *LAB_COMMANDS])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: pna {command}")


@pytest.mark.parametrize("command", [*COMMANDS, *LAB_COMMANDS])
def test_every_help_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    examples = re.split(r"^examples?:\n", capsys.readouterr().out, flags=re.M)[1]
    assert examples.startswith(f"  pna {command}")


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for name in (*COMMANDS, *LAB_COMMANDS):
        assert re.search(rf"^    {name}\s+\w", out, re.M)


def test_the_library_alone_has_no_lab_commands(capsys):
    with pytest.raises(SystemExit):
        library_main(["--help"])
    assert "compare" not in capsys.readouterr().out


def test_help_imports_no_command():
    code = """
import sys
from pna.__main__ import main
try:
    main(["--help"])
except SystemExit:
    pass
loaded = [name for name in sys.modules if name.startswith(("pna.cli.", "pna.lab.cli."))]
print("loaded:", loaded, "torch" in sys.modules)
"""
    assert run_code(code).splitlines()[-1] == "loaded: [] False"


def test_a_command_imports_no_other():
    code = """
import sys
from pna.__main__ import main
try:
    main(["info", "--help"])
except SystemExit:
    pass
print(*(name for name in sys.modules if name.startswith(("pna.cli.", "pna.lab.cli."))))
"""
    loaded = {name.rpartition(".")[2] for name in run_code(code).splitlines()[-1].split()}
    assert loaded & {*COMMANDS, *LAB_COMMANDS} == {"info"}


def test_version_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "pna", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"pna {__version__}"


@pytest.mark.parametrize("arguments", [[], ["paint"], ["info"]])
def test_wrong_use(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pna")


class TestErrors:
    """A command that raises, run by `main` as any other."""

    @pytest.fixture
    def fail(self, tmp_path, monkeypatch):
        """Runs a command that raises an error."""

        def run(error, *options):
            (tmp_path / "failing_command.py").write_text(
                "def add_arguments(parser): pass\ndef run(args): raise args.setup.load_presets()\n"
            )
            monkeypatch.syspath_prepend(tmp_path)
            setup = Setup(load_presets=lambda: error)
            commands = {"fail": Command("failing_command", "fail")}
            return library_main([*options, "fail"], commands=commands, setup=setup)

        return run

    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (PnaError("expected a cat, got a dog"), "pna fail: expected a cat, got a dog\n"),
            (
                ModuleNotFoundError("No module named 'rich'", name="rich"),
                "pna fail: needs rich, which is not installed: pip install 'pna[train]'\n",
            ),
            (
                PermissionError(errno.EACCES, "Permission denied", "scores.json"),
                "pna fail: [Errno 13] Permission denied: 'scores.json'\n",
            ),
            (
                OSError(errno.ENOSPC, "No space left on device"),
                "pna fail: [Errno 28] No space left on device\n",
            ),
        ],
        ids=["PnaError", "no package", "file", "full disk"],
    )
    def test_errors_for_users_are_one_line(self, fail, error, line, capsys):
        assert fail(error) == 2
        assert capsys.readouterr().err == line
        with pytest.raises(type(error)):
            fail(error, "--debug")

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("zip() argument 2 is shorter than argument 1"),
            KeyError("missing"),
            TypeError("no"),
            OSError("without a file"),
        ],
        ids=repr,
    )
    def test_defects_keep_their_traceback(self, fail, error):
        with pytest.raises(type(error)):
            fail(error)

    def test_warnings_for_users_are_one_line(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "warning_command.py").write_text(
            "import warnings\n"
            "def add_arguments(parser): pass\n"
            "def run(args): warnings.warn('few pixels'); return 0\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            commands = {"warn": Command("warning_command", "warn")}
            assert library_main(["warn"], commands=commands) == 0
        assert capsys.readouterr().err == "pna warn: warning: few pixels\n"

    def test_interrupted(self, fail, capsys):
        assert fail(KeyboardInterrupt()) == 130
        assert capsys.readouterr().err == "pna fail: interrupted\n"

    def test_debug_stands_before_or_after_the_command(self):
        for words in (["--debug", "info"], ["info", "--debug"]):
            with pytest.raises(PnaError, match="^no model 'resnet-soup'"):
                main([*words, "--model", "resnet-soup"])


@pytest.mark.parametrize("command", ["segment", "demo", "evaluate", "train"])
@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_an_absent_device_is_a_sentence(command, device, tmp_path, capsys):
    words = {
        "segment": [str(demo.IMAGES / "photos" / "cat.jpg")],
        "evaluate": ["--model", "lite", "--dataset", "camvid", "--split", "val", "--root", "x"],
        "train": ["voc-lite"],
        "demo": [],
    }[command]
    assert main([command, *words, "-o", str(tmp_path / "out"), "--device", device]) == 2
    expected = {"cuda:99": "no device 'cuda:99' here", "gpu": "expected a device such as cpu"}
    assert capsys.readouterr().err.startswith(f"pna {command}: {expected[device]}")


def test_info_of_a_preset(capsys):
    assert main(["info", "--model", "fcn-pna", "--encoder", "resnet18", "--size", "256,128"]) == 0
    out = capsys.readouterr().out
    rows = {
        match[1]: [float(x) for x in match[2].split()]
        for match in re.finditer(r"^([a-z][a-z 1-4]+?)\s{2,}([\d. ]+)$", out, re.M)
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
    assert main(["info", "--model", "somewhere/else", "--encoder", "resnet18"]) == 2
    assert capsys.readouterr().err.startswith("pna info: an encoder goes with a preset")


def test_info_of_a_baseline(capsys):
    """Presets of the lab reach the library's commands."""
    assert main(["info", "--model", "lite-decoder", "--size", "64,64"]) == 0
    assert capsys.readouterr().out.startswith("lite-decoder, 64x64")
    assert library_main(["info", "--model", "lite-decoder", "--size", "64,64"]) == 2


@pytest.mark.slow
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


def test_bundled_images_are_pairs():
    images = demo.IMAGES / "damage"
    stems = [sorted(p.stem for p in (images / kind).iterdir()) for kind in ("images", "masks")]
    assert stems[0] == stems[1]
    assert len(stems[0]) == 8


class TestRecipes:
    def test_lists_those_of_library_and_lab(self, capsys):
        assert main(["recipes"]) == 0
        out = capsys.readouterr().out
        assert re.search(r"^voc-lite +voc2012 +lite", out, re.M)
        (row,) = (line for line in out.splitlines() if "voc-psp-swint-pna-nam" in line)
        assert 'Table 3, "PSP + PNA (ours, NAM)", Swin-T' in row
        assert " voc2012 " in row
        assert " psp-pna on swin_tiny_patch4_window7_224 " in row
        assert row.endswith("mIoU 80.3 in the paper")
        assert "pna train RECIPE --root PATH -o runs/RECIPE" in out

    def test_words_choose(self, capsys):
        assert main(["recipes", "table 4", "resnet101s", "PNA"]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if "Table 4" in line]
        assert [row.split()[0] for row in rows] == [
            "cityscapes-deeplabv3-r101-pna",
            "cityscapes-fpn-r101-pna",
        ]

    def test_nothing_found(self, capsys):
        assert main(["recipes", "table 9"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("pna recipes: no recipe holds all of ['table 9']")
