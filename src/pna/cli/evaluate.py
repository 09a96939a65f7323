"""`pna evaluate`: scores of a model on a data set, stage by stage."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.options import (
    add_dataset_arguments,
    add_device_argument,
    add_tiling_arguments,
    check_dataset_arguments,
    create_dataset_of,
    load_model,
    tiling_of,
)
from pna.errors import PnaError

if TYPE_CHECKING:
    import torch

    from pna.evaluate import Report

EPILOG = """\
examples:
  pna evaluate --model voc-lite --dataset voc2012 --root data/voc2012 --split val -o scores
  pna evaluate --model runs/own/model --dataset folder --root data/own -o scores
  pna evaluate --predictions out/ --dataset folder --root data/own --labels camvid -o scores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model",
        help="a bundled model's name, a saved model's folder, or an .onnx file that was exported "
        "with --stages",
    )
    source.add_argument(
        "--predictions",
        type=Path,
        metavar="FOLDER",
        help="score label maps instead, of any origin: images of class indices with the names of "
        "the data set's images",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder for scores.json, scores.md and scores.png, made if missing",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="score the first N images alone")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out and list files that cannot be read, instead of stopping at the first",
    )
    parser.add_argument(
        "--boundary-width",
        type=int,
        default=3,
        metavar="PX",
        help="width of boundary IoU's region along each boundary in pixels (default: %(default)s)",
    )
    add_device_argument(parser)
    add_dataset_arguments(parser)
    add_tiling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score the model or the predictions, print the tables and write them."""
    check_dataset_arguments(args)
    if args.dataset != "folder" and args.split is None:
        # The data sets' own default is the part to train on.
        raise PnaError("which part of the data set is to be scored? Give --split, such as val")
    rank, device = _process(args.device)
    args.out.mkdir(parents=True, exist_ok=True)  # now: it may fail, and scoring takes hours
    report = _score_model(args, device) if args.model else _score_predictions(args)
    # Every process has the whole report; one writes it.
    if rank == 0:
        print(report.table())
        report.save(args.out)
        if find_spec("matplotlib") is None:
            print("no scores.png: it needs matplotlib, pip install 'pna[train]'", file=sys.stderr)
    return 0


def _score_model(args: argparse.Namespace, device: "torch.device") -> "Report":
    from pna.evaluate import evaluate

    tiling = tiling_of(args)  # before the model is read: a wrong option ends the command at once
    model = load_model(args)
    # A folder of images and masks does not name its classes and bands; the model does.
    is_folder = args.dataset == "folder"
    labels, bands = (model.labels, model.bands) if is_folder else (None, None)
    return evaluate(
        model,
        create_dataset_of(args, args.split, labels, bands),
        model_name=args.model,
        device=device,
        boundary_width=args.boundary_width,
        limit=args.limit,
        skip_bad=args.skip_bad,
        num_workers=args.workers,
        tiling=tiling,
    )


def _score_predictions(args: argparse.Namespace) -> "Report":
    from pna.evaluate import evaluate_predictions

    if not tiling_of(args).is_whole:
        raise PnaError("--tile, --scales and --flip are for --model; --predictions are as they are")
    if args.dataset == "folder" and args.labels is None:
        raise PnaError("--predictions on --dataset folder need --labels: the classes of the masks")
    return evaluate_predictions(
        args.predictions,
        create_dataset_of(args, args.split),
        boundary_width=args.boundary_width,
        limit=args.limit,
        skip_bad=args.skip_bad,
        num_workers=args.workers,
    )


def _process(device: str | None) -> "tuple[int, torch.device]":
    """Join the processes of `accelerate launch`, if there are several; return rank and device."""
    from pna.inference.devices import find_device

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, find_device(device)
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    from pna.train.processes import check_joined

    # On CPUs accelerate takes each of several processes for the only one unless told otherwise.
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    check_joined(state.num_processes)
    return state.process_index, state.device
