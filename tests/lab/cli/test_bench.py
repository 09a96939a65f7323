"""`pna bench` from the command line, at tiny sizes: its files, not its times."""

import json
from functools import partial

import numpy as np
import pytest

from color_segmenter import ColorSegmenter
from pna.__main__ import main
from pna.lab.bench import growth, masks, models, runtimes
from pna.lab.masks.cascadepsp import CascadePSP
from pna.lab.masks.cascadepsp_steps import refine_with
from pna.lab.measure.memory import Peak
from pna.ops import BACKENDS

TINY = ["--rounds", "2", "--device", "cpu"]
OTHER = """
from pna.ops import neighborhood_attention as ours

def neighborhood_attention(query, key, value, bias, window, scale):
    return ours(query, key, value, bias, window=window, scale=scale, backend="blocked")
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Results go to a folder of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def peaks(monkeypatch):
    """Peak memory without processes: test_memory.py has those."""

    def peak(work):
        if work.model == "fcn-pna":
            return Peak(why_not="out of memory")
        return Peak(100.0 if work.model == "lite-fcn" else 150.0)

    for suite in (models, growth):
        monkeypatch.setattr(suite, "peak_memory", peak)


def _read(path):
    for suffix in (".md", ".png"):
        assert path.with_suffix(suffix).stat().st_size > 0
    return json.loads(path.read_text())


def test_operator(tmp_path, capsys):
    (tmp_path / "other.py").write_text(OTHER)
    arguments = ["--stage", "8x2", "--stage", "6x1", "--window", "5", "--no-compile"]
    arguments += ["--other", str(tmp_path / "other.py")]
    assert main(["bench", "operator", *arguments, *TINY]) == 0
    text = (tmp_path / "bench" / "operator.json").read_text()
    assert str(tmp_path) not in text
    found = _read(tmp_path / "bench" / "operator.json")
    assert found["command"] == (
        "pna bench operator --device cpu --rounds 2 --no-compile --window 5 --stage 8x2 "
        "--stage 6x1 --other other.py"
    )
    rows = {(row["task"], row["stage"], row["name"]): row for row in found["rows"]}
    for task in ("forward", "forward+backward"):
        for stage in ("8x8x2", "6x6x1"):
            assert {name for t, s, name in rows if (t, s) == (task, stage)} == {
                *BACKENDS, "flex compiled", "flex eager", "other", "matmul floor"
            }  # fmt: skip
        total = rows[task, "sum", "reference"]
        parts = [rows[task, stage, "reference"]["rounds_ms"] for stage in ("8x8x2", "6x6x1")]
        assert total["rounds_ms"] == pytest.approx(
            [sum(pair) for pair in zip(*parts, strict=True)], rel=1e-3
        )
        assert {*total["ratio"]} == {"other", "matmul floor"}
        assert {*rows[task, "sum", "other"]["ratio"]} == {"reference", "matmul floor"}
    assert rows["forward", "8x8x2", "flex compiled"]["why_not"] == "compiling was turned off"
    assert "flex compiled did not run" in capsys.readouterr().out


def test_grids(tmp_path):
    arguments = ["--cells", "16", "--channels", "2x8x8", "--channels", "1x6x3"]
    arguments += ["--dtype", "float64", "--backend", "blocked", "--backend", "numba"]
    assert main(["bench", "grids", *arguments, *TINY]) == 0
    found = _read(tmp_path / "bench" / "grids.json")
    assert found["command"] == (
        "pna bench grids --device cpu --rounds 2 --dtype float64 --cells 16 --channels 2x8x8 "
        "--channels 1x6x3 --backend blocked --backend numba"
    )
    rows = {
        (row["task"], row["channels"], row["backend"], row["layout"]): row for row in found["rows"]
    }
    layouts = [
        "16 on 16, window 9", "16 on 8, window 5", "16 on 8, window 9", "16 on 4, window 5",
        "16 on 9, window 5", "8 on 16, window 5", "16 on 8 repeated to 16, window 5",
    ]  # fmt: skip
    assert list(dict.fromkeys(layout for *_, layout in rows)) == layouts
    assert len(rows) == len(found["rows"]) == 2 * 2 * 2 * len(layouts)
    for (task, channels, backend, _), row in rows.items():
        if backend == "numba":
            assert row["why_not"].startswith("it takes float16, bfloat16 and float32")
            continue
        base = rows[task, channels, backend, layouts[0]]
        pairs = zip(row["rounds_ms"], base["rounds_ms"], strict=True)
        assert row["ratio"][1] == pytest.approx(sum(a / b for a, b in pairs) / 2, rel=1e-2)
    assert "numba did not run" in (tmp_path / "bench" / "grids.md").read_text()


def test_head(tmp_path):
    arguments = ["--encoder", "resnet18", "--size", "64,64", "--model", "fcn-pna"]
    assert main(["bench", "head", *arguments, *TINY, "-o", "here/profile.json"]) == 0
    found = _read(tmp_path / "here" / "profile.json")
    assert "profile.json" not in found["command"]
    components = {row["component"] for row in found["rows"]}
    assert components == {"encoder", "coarse head", "model"} | {f"stage {m}" for m in (1, 2, 3, 4)}
    stage = {
        row["part"]: row["rounds_ms"] for row in found["rows"] if row["component"] == "stage 2"
    }
    assert {*stage} == {
        "embedding", "SAM", "projections", "attention", "MLP", "classifier", "rest", "whole"
    }  # fmt: skip
    for whole, *parts in zip(stage.pop("whole"), *stage.values(), strict=True):
        assert sum(parts) == pytest.approx(whole, rel=1e-2)


def test_models(tmp_path, peaks):
    arguments = ["--model", "lite-fcn", "--model", "lite", "--model", "fcn-pna"]
    arguments += ["--size", "32,64", "--batch", "3", "--train-batch", "2", "--no-channels-last"]
    assert main(["bench", "models", *arguments, *TINY]) == 0
    found = _read(tmp_path / "bench" / "models.json")
    assert found["settings"]["channels_last"] is False
    rows = {(row["task"], row["model"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 6
    for task, batch in (("inference", 3), ("training", 2)):
        first, other = rows[task, "lite-fcn"], rows[task, "lite"]
        assert first["batch"] == batch
        assert first["ratio"] == [1.0, 1.0, 1.0]
        assert other["peak_ratio"] == 1.5
        assert len(other["rounds_ms"]) == 2
        median = other["ms"][1]
        assert other["images_per_second"] == pytest.approx(1e3 * batch / median, rel=1e-3)
        assert rows[task, "fcn-pna"]["why_not"] == "out of memory"
        assert "ms" not in rows[task, "fcn-pna"]
    page = (tmp_path / "bench" / "models.md").read_text()
    assert "fcn-pna (eager, training) did not run: out of memory" in page


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it compiles four graphs: minutes on two busy cores
@pytest.mark.filterwarnings("default")  # the compiler has its own
def test_compiled_models(tmp_path, peaks):
    # One with a single loss, one with the operator's backward pass in its graph.
    names = ["lite-fcn", "lite"]
    arguments = ["--model", names[0], "--model", names[1], "--size", "64,64", "--compile"]
    assert main(["bench", "models", *arguments, *TINY]) == 0
    rows = _read(tmp_path / "bench" / "models.json")["rows"]
    assert [(row["task"], row["mode"], row["model"]) for row in rows if "ms" in row] == [
        (task, mode, name)
        for task in ("inference", "training")
        for mode in ("eager", "compiled")
        for name in names
    ]


def test_growth(tmp_path, peaks):
    arguments = ["--model", "lite", "--model", "fcn-pna", "--sides", "32", "64"]
    assert main(["bench", "growth", *arguments, *TINY]) == 0
    rows = _read(tmp_path / "bench" / "growth.json")["rows"]
    lite = [row for row in rows if row["model"] == "lite"]
    assert [row["side"] for row in lite] == [32, 64, "all"]
    assert [row["pixels"] for row in lite] == [1024, 4096, [1024, 4096]]
    low, median, high = lite[-1]["exponent"]
    assert low <= median <= high
    assert lite[-1]["is_linear"] == (0.95 <= median <= 1.1)
    none = next(row for row in rows if row["model"] == "fcn-pna" and row["side"] == "all")
    assert "exponent" not in none


def test_masks(tmp_path, monkeypatch):
    """Small networks of the same kinds: the real ones take minutes."""
    monkeypatch.setattr(growth, "peak_memory", lambda work: Peak(10.0 * (work.classes or 4)))
    monkeypatch.setattr(masks, "CascadePSP", partial(CascadePSP, encoder="resnet18", width=0.125))
    monkeypatch.setattr(masks, "refine_with", partial(refine_with, side=96))
    words = ["--sides", "48", "64", "--classes", "1", "3", "--rival-sides", "64"]
    assert main(["bench", "masks", *words, *TINY]) == 0
    rows = _read(tmp_path / "bench" / "masks.json")["rows"]
    names = ["pna, 1 class", "pna, 3 classes", masks.RIVAL]
    assert [(row["model"], row["side"]) for row in rows] == [
        *((name, side) for side in (48, 64) for name in names),
        *((name, "all") for name in names),
    ]
    assert [row["peak_mb"] for row in rows if row["side"] == 48] == [10.0, 30.0, None]
    assert [row["peak_mb"] for row in rows if row["side"] == 64] == [10.0, 30.0, 40.0]
    text = (tmp_path / "bench" / "masks.md").read_text()
    ratio = text.split("Time over that of CascadePSP")[1]
    assert ratio.count("| pna, ") == ratio.count("–") == 2
    assert "CascadePSP, 1 class did not run at 48x48: minutes a call, see --rival-sides" in text


@pytest.mark.parametrize("number", [1, 2, 5, 21])
def test_objects_of_every_class_and_background(number):
    objects = masks.make_objects(number, 90)
    assert set(np.unique(objects)) == set(range(number + 1))


def test_runtimes(monkeypatch, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtimes, "build", lambda work: ColorSegmenter().eval())
    assert main(["bench", "runtimes", "--model", "lite", "--size", "16,24", *TINY]) == 0
    rows = _read(tmp_path / "bench" / "runtimes.json")["rows"]
    assert [row["runtime"] for row in rows] == ["PyTorch", "ONNX Runtime"]
    assert rows[0]["ratio"] == [1, 1, 1]
    assert max(row["difference"] for row in rows) < 1e-4


@pytest.mark.parametrize(
    ("power", "is_linear"), [(0.9, False), (0.95, True), (1.1, True), (1.2, False)]
)
def test_linear_growth(power, is_linear):
    rows = [
        {"model": "m", "pixels": p, "ms": [], "rounds_ms": [p**power] * 3, "side": p**0.5}
        for p in (4.0, 16.0, 64.0)
    ]
    found = growth.fit(rows, "m")
    assert found["exponent"] == pytest.approx([power] * 3)
    assert found["is_linear"] == is_linear


def test_results_of_a_checkout_go_to_its_benchmarks(tmp_path):
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    arguments = ["--stage", "4x1", "--window", "3", "--no-compile", "--threads", "1"]
    assert main(["bench", "operator", *arguments, *TINY]) == 0
    found = _read(tmp_path / "benchmarks" / "results" / "operator.json")
    assert found["machine"]["threads"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["operator", "--window", "4"], "expected an odd window >= 1, got 4"),
        (["grids", "--cells", "6"], "expected cells per side in a multiple of 4, got 6"),
        (["grids", "--backend", "abacus"], "unknown backend 'abacus'"),
        (["operator", "--other", "gone.py"], "gone.py: expected a Python file"),
        (["operator", "--encoder", "resnet18"], "--encoder has no meaning for operator"),
        (["head", "growth", "--compile"], "--compile has no meaning for head, growth"),
        (["head", "--model", "fcn", "--encoder", "resnet18"], "model 'fcn' is not refined"),
        (["models", "--model", "soup"], "no model 'soup'"),
        (["runtimes", "--model", "soup"], "no model 'soup'"),
        (["growth", "--model", "glnett"], "presets are spelled glnet"),
        (["growth", "--encoder", "soup"], "unknown encoder 'soup'"),
        (["operator", "--device", "abacus"], "expected a device such as cpu"),
        (["head", "models", "-o", "x.json"], "--out x.json is for one suite"),
        (["head", "-o", "x.csv"], "x.csv: expected a file ending in .json"),
    ],
)
def test_wrong_use(arguments, message, capsys):
    device = [] if "--device" in arguments else ["--device", "cpu"]
    assert main(["bench", *arguments, *device]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["soup"], "invalid choice: 'soup'"),
        (["operator", "--stage", "128"], "expected a stage as SIDExHEADS"),
        (["grids", "--channels", "3x32"], "expected channels as HEADSxDxDV"),
        (["operator", "--stage", "0x3"], "expected a whole number from 1, got '0'"),
        (["models", "--batch", "-1"], "expected a whole number from 1, got '-1'"),
    ],
)
def test_unreadable_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
