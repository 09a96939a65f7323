"""`pna bench`: time and memory of the operator, its parts, and whole models."""

import argparse
import importlib
import shlex
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pna.cli.options import add_device_argument, parse_size
from pna.errors import PnaError
from pna.lab.bench import SUITES

RESULTS = Path("benchmarks/results")
"""Folder of the results in a checkout; elsewhere it is `bench/`."""

EPILOG = """\
examples:
  pna bench operator
  pna bench grids --cells 64 --backend blocked
  pna bench models --model lite-fcn --model lite --size 360,480
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; None stands for the default of the suite."""
    parser.epilog = EPILOG
    parser.add_argument(
        "suites",
        nargs="+",
        choices=SUITES,
        metavar="SUITE",
        help="operator (backends, other implementations, bounds), grids (the operator with keys on "
        "another grid than queries, relative to the same grid), head (time by stage and part), "
        "models (time and memory, relative to the first), growth (with the size of the image), "
        "masks (the mask refiner with the size of the image and the classes), or runtimes (ONNX "
        "Runtime, relative to PyTorch on the same CPU)",
    )
    add_device_argument(parser)
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of PyTorch")
    parser.add_argument(
        "--rounds",
        type=positive,
        metavar="N",
        help="measurements of each (operator, grids, head: 9, models, runtimes: 5, growth, masks: "
        "3)",
    )
    parser.add_argument("--batch", type=positive, metavar="N", help="maps or images per call (1)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiled",
        help="operator: compile flex_attention (yes); models: measure torch.compile too (no)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE.json",
        help="file of one suite; tables and chart are written beside it (default: SUITE.json, on "
        "CUDA SUITE-cuda.json, in benchmarks/results of a checkout or else in bench/)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16", "float64"),
        help="operator, grids: type of all tensors (float32)",
    )
    group = parser.add_argument_group("operator")
    group.add_argument("--window", type=positive, metavar="N", help="cells per side (9)")
    group.add_argument(
        "--stage",
        type=parse_stage,
        action="append",
        dest="stages",
        metavar="SIDExHEADS",
        help="such as 128x3; may be repeated (the four of a 512x512 image)",
    )
    group.add_argument(
        "--other",
        type=Path,
        metavar="FILE.py",
        help="another neighborhood_attention(query, key, value, bias, window, scale) to time",
    )
    group = parser.add_argument_group("grids")
    group.add_argument(
        "--cells", type=positive, metavar="N", help="per side of the finest map (128)"
    )
    group.add_argument(
        "--channels",
        type=parse_channels,
        action="append",
        metavar="HEADSxDxDV",
        help="heads, width of queries and keys, width of values; may be repeated (3x32x32, and "
        "1x20x11 as where logits are gathered)",
    )
    group.add_argument(
        "--backend",
        action="append",
        dest="backends",
        metavar="NAME",
        help="of the operator; may be repeated (numba, blocked)",
    )
    group = parser.add_argument_group("head, models, growth, masks, runtimes")
    group.add_argument(
        "--model",
        action="append",
        dest="models",
        metavar="MODEL",
        help="a preset or a saved model; may be repeated, and others are compared with the first "
        "(fcn, fcn-os8, fpn, upernet, fcn-pna-nam, fcn-pna, fcn-pna-gather, or some of these)",
    )
    group.add_argument("--encoder", metavar="NAME", help="timm model for presets (resnet50c)")
    group.add_argument("--size", type=parse_size, metavar="H,W", help="of the image (512,512)")
    group.add_argument(
        "--sides",
        type=positive,
        nargs="+",
        metavar="PX",
        help="growth, masks: of the square images (256 512 1024 2048 4096; masks: 512 1024 2048 "
        "4288)",
    )
    group.add_argument(
        "--classes", type=positive, nargs="+", metavar="K", help="masks: of the mask (1 5 21)"
    )
    group.add_argument(
        "--rival-sides",
        type=positive,
        nargs="+",
        metavar="PX",
        help="masks: those that CascadePSP runs on too, minutes a call (512)",
    )
    group.add_argument("--train-batch", type=positive, metavar="N", help="models: per step (2)")
    group.add_argument(
        "--amp",
        action="store_true",
        default=None,
        help="mixed precision: float16 on CUDA, bfloat16 on a CPU",
    )
    group.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="memory format of weights and images (yes)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure the suites; print and write the results."""
    from rich.console import Console

    from pna.inference.devices import find_device
    from pna.lab.machine import describe
    from pna.lab.measure.timing import use_threads

    device = str(find_device(args.device))
    if not device.startswith(("cpu", "cuda")):
        raise PnaError(f"--device {device}: pna bench measures cpu and cuda only")
    # All options are checked before the first measurement, which may take an hour.
    paths = {suite: output_path(suite, args, device) for suite in args.suites}
    settings = choose_settings(args, device)
    command = write_command(args)

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with use_threads(args.threads):
        for suite, chosen in settings.items():
            machine = describe(device)
            report = importlib.import_module(f"pna.lab.bench.{suite}").measure(chosen, log)
            # rich squeezes tables into 80 columns where the output is no terminal.
            report.show(Console(width=None if sys.stdout.isatty() else 140))
            plain = {
                key: value.name if isinstance(value, Path) else value
                for key, value in asdict(chosen).items()
            }
            report.write(paths[suite], command=command, settings=plain, machine=machine)
            print(f"{suite}: {paths[suite]}, tables and chart beside it")
    return 0


def choose_settings(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return the settings of each suite: the given options, and the suite's own defaults.

    Raises:
        PnaError: An option belongs to none of the suites.
    """
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in vars(args).items()
        if key in _OPTIONS and value is not None
    }
    # Of several suites each takes the options that it has; one that none has is a mistake.
    unused = given.keys() - {"threads", "out", "device"}
    chosen = {}
    for suite in args.suites:
        kind = importlib.import_module(f"pna.lab.bench.{suite}").Settings
        known = {field.name for field in fields(kind)} & given.keys()
        chosen[suite] = kind(**{key: given[key] for key in known} | {"device": device})
        unused -= known
    if unused:
        flags = ", ".join(_OPTIONS[key] for key in sorted(unused))
        raise PnaError(f"{flags} has no meaning for {', '.join(args.suites)}: leave it out")
    return chosen


def output_path(suite: str, args: argparse.Namespace, device: str) -> Path:
    """Return the file of a suite's numbers.

    Raises:
        PnaError: One file was given for several suites, or it is not called .json.
    """
    out: Path | None = args.out
    if out is None:
        folder = RESULTS if RESULTS.is_dir() else Path("bench")
        return folder / (f"{suite}-cuda.json" if device.startswith("cuda") else f"{suite}.json")
    if len(set(args.suites)) > 1:
        raise PnaError(f"--out {out} is for one suite, got {', '.join(args.suites)}")
    if out.suffix != ".json":
        raise PnaError(f"--out {out}: expected a file ending in .json")
    return out


def write_command(args: argparse.Namespace) -> str:
    """Format the command, without absolute paths of this machine."""
    words = ["pna", "bench", *args.suites]
    for key, flag in _OPTIONS.items():
        value = getattr(args, key)
        if value is None or key == "out":
            continue
        if isinstance(value, Path):  # a path of this machine has no meaning elsewhere
            words += [flag, value.name if value.is_absolute() else str(value)]
        elif key in ("stages", "channels"):
            words += [word for item in value for word in (flag, "x".join(map(str, item)))]
        elif key in ("models", "backends"):
            words += [word for name in value for word in (flag, name)]
        elif key == "size":
            words += [flag, "{},{}".format(*value)]
        elif isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


# Options by the field of the suites' settings that they fill.
_OPTIONS = {
    "device": "--device",
    "threads": "--threads",
    "rounds": "--rounds",
    "batch": "--batch",
    "compiled": "--compile",
    "out": "--out",
    "dtype": "--dtype",
    "window": "--window",
    "stages": "--stage",
    "other": "--other",
    "cells": "--cells",
    "channels": "--channels",
    "backends": "--backend",
    "models": "--model",
    "encoder": "--encoder",
    "size": "--size",
    "sides": "--sides",
    "classes": "--classes",
    "rival_sides": "--rival-sides",
    "train_batch": "--train-batch",
    "amp": "--amp",
    "channels_last": "--channels-last",
}


def positive(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def parse_channels(text: str) -> tuple[int, int, int]:
    """Read "HEADSxDxDV"."""
    if text.count("x") != 2:
        raise argparse.ArgumentTypeError(
            f"expected channels as HEADSxDxDV, for example 3x32x32; got {text!r}"
        )
    heads, width, value_width = map(positive, text.split("x"))
    return heads, width, value_width


def parse_stage(text: str) -> tuple[int, int]:
    """Read "SIDExHEADS"."""
    side, cross, heads = text.partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(
            f"expected a stage as SIDExHEADS, for example 128x3; got {text!r}"
        )
    return positive(side), positive(heads)
