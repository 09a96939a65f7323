"""`pna bench`: time and memory of the operator, its parts, and whole models."""

import argparse
import importlib
import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pna.bench import SUITES

HELP = "time and memory of the operator, the refinement head and whole models"

RESULTS = Path("benchmarks/results")
"""Where results go when the command runs in a checkout; elsewhere to `bench/`."""

_FLAGS = {"models": "--model", "stages": "--stage", "compiled": "--compile"}
"""Options that aren't called like the setting that they fill."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments. Defaults are the suites' own, so here they are None."""
    parser.add_argument(
        "suites",
        nargs="+",
        choices=SUITES,
        metavar="SUITE",
        help="operator (backends, rivals, floors), head (where its time goes), models (time and "
        "memory against FCN-32) or growth (against the picture's size)",
    )
    _add_common(parser)
    _add_operator(parser.add_argument_group("operator"))
    _add_models(parser.add_argument_group("head, models, growth"))


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is one)")
    parser.add_argument("--threads", type=positive, help="of PyTorch on the CPU (as it has them)")
    parser.add_argument("--rounds", type=positive, help="turns of each (9; models 5, growth 3)")
    parser.add_argument("--batch", type=positive, help="maps or pictures per call (1)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiled",
        help="operator: compile flex_attention (yes); models: measure torch.compile too (no)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.json",
        help="of one suite; tables and chart go beside it (benchmarks/results/SUITE.json in a "
        "checkout, else bench/SUITE.json; on CUDA SUITE-cuda.json)",
    )


def _add_operator(group: Any) -> None:
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16", "float64"))
    group.add_argument("--window", type=positive, help="cells per side (9)")
    group.add_argument(
        "--stage",
        type=parse_stage,
        action="append",
        dest="stages",
        metavar="SIDExHEADS",
        help="such as 128x3; may be repeated (the four of a 512x512 picture)",
    )
    group.add_argument(
        "--yardstick",
        type=Path,
        metavar="FILE.py",
        help="somebody else's neighborhood_attention(query, key, value, bias, window, scale), "
        "timed beside ours",
    )


def _add_models(group: Any) -> None:
    group.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="MODEL",
        help="a preset or a saved model; may be repeated, the first is what others are compared "
        "with (fcn, fcn-os8, fpn, upernet, fcn-pna-nam, fcn-pna, or some of these)",
    )
    group.add_argument("--encoder", help="timm model to build presets on (resnet50c)")
    group.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="of the picture (512 512)"
    )
    group.add_argument(
        "--sides",
        type=positive,
        nargs="+",
        metavar="PX",
        help="growth: of the square pictures (256 512 1024 2048 4096)",
    )
    group.add_argument("--train-batch", type=positive, help="models: pictures a step (2)")
    group.add_argument(
        "--amp",
        action="store_true",
        default=None,
        help="mixed precision: float16 on CUDA, bfloat16 on a CPU",
    )
    group.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="layout of weights and pictures (yes)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure the suites; print and write what they found."""
    from rich.console import Console

    from pna.bench.clock import check_device, use_threads
    from pna.bench.machine import describe
    from pna.predict import default_device

    device = check_device(args.device or str(default_device()))
    paths = {suite: output_path(suite, args, device) for suite in args.suites}
    settings = choose_settings(args, device)
    command = write_command(args)
    with use_threads(args.threads):
        for suite, chosen in settings.items():
            machine = describe(device)
            report = importlib.import_module(f"pna.bench.{suite}").measure(chosen, _say)
            # Into a file or a pipe rich would squeeze the tables into 80 columns.
            report.show(Console(width=None if sys.stdout.isatty() else 140))
            report.write(
                paths[suite], command=command, settings=plain(asdict(chosen)), machine=machine
            )
            print(f"{suite}: {paths[suite]}, tables and chart beside it")
    return 0


def choose_settings(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """The settings of each suite: what was typed, and the suite's own defaults.

    Raises:
        ValueError: An option belongs to none of the suites.
    """
    given = {key: value for key, value in _options(args).items() if value is not None}
    left = given.keys() - {"threads", "output", "device"}
    found = {}
    for suite in args.suites:
        kind = importlib.import_module(f"pna.bench.{suite}").Settings
        known = {field.name for field in fields(kind)} & given.keys()
        values = {key: _frozen(given[key]) for key in known}
        found[suite] = kind(**values | {"device": device})
        left -= known
    if left:
        flags = ", ".join(_flag(key) for key in sorted(left))
        raise ValueError(f"{flags} has no meaning for {', '.join(args.suites)}: leave it out")
    return found


def output_path(suite: str, args: argparse.Namespace, device: str) -> Path:
    """Where a suite's numbers go.

    Raises:
        ValueError: One file was given for several suites, or it isn't called .json.
    """
    if args.output is None:
        folder = RESULTS if RESULTS.is_dir() else Path("bench")
        return folder / (f"{suite}-cuda.json" if device.startswith("cuda") else f"{suite}.json")
    output: Path = args.output
    if len(set(args.suites)) > 1:
        raise ValueError(f"--output {output} is for one suite, got {', '.join(args.suites)}")
    if output.suffix != ".json":
        raise ValueError(f"--output {output}: expected a file ending in .json")
    return output


def write_command(args: argparse.Namespace) -> str:
    """The command as somebody else would type it: without places on this machine."""
    words = ["pna", "bench", *args.suites]
    for key, value in _options(args).items():
        flag = _flag(key)
        if value is None or key == "output":
            continue
        if key == "yardstick":
            words += [flag, "FILE.py"]
        elif key == "stages":
            words += [word for side, heads in value for word in (flag, f"{side}x{heads}")]
        elif key == "models":
            words += [word for model in value for word in (flag, model)]
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for JSON, without places on this machine."""
    return {key: "FILE.py" if isinstance(value, Path) else value for key, value in settings.items()}


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def parse_stage(text: str) -> tuple[int, int]:
    """Read "SIDExHEADS"."""
    side, cross, heads = text.partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(
            f"expected a stage as SIDExHEADS, for example 128x3; got {text!r}"
        )
    return positive(side), positive(heads)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(args).items() if key not in _OTHERS}


_OTHERS = ("command", "run", "suites")


def _flag(key: str) -> str:
    return _FLAGS.get(key, "--" + key.replace("_", "-"))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
