"""`pna evaluate`: scores of a model on a dataset, stage by stage."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.refine import add_refine_argument, load_model, title_of
from pna.cli.views import add_view_arguments, views_of

if TYPE_CHECKING:
    from pna.data import SegmentationDataset
    from pna.labels import LabelSpace
    from pna.predict import Device

HELP = "score a model on a dataset, stage by stage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--model", required=True, help="a bundled model's name or a saved folder")
    add_refine_argument(parser)
    parser.add_argument(
        "--dataset",
        required=True,
        metavar="NAME",
        help="voc2012, cityscapes, cocostuff10k, deepglobe, trans10k, camvid, damage, or folder "
        "(takes the model's classes)",
    )
    parser.add_argument("--root", type=Path, required=True, help="where the dataset lies")
    parser.add_argument("--split", help="which part of it, for example val (folder: all)")
    parser.add_argument(
        "--split-list", type=Path, metavar="FILE", help="for a folder: stems to score, one a line"
    )
    parser.add_argument(
        "--masks", choices=("index", "color"), help="for a folder: what its masks hold (index)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N pictures")
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out what can't be read and list it, instead of stopping at the first",
    )
    parser.add_argument(
        "--boundary-width",
        type=int,
        default=3,
        metavar="PX",
        help="width of the region that boundary IoU looks at, in pixels (%(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (CUDA where there is one)")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="folder for scores.json, scores.md and scores.png, made if missing",
    )
    add_view_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Score the model, print the tables and write them."""
    from pna.evaluate import evaluate

    views = views_of(args)
    rank, world_size, device = _process(args.device)
    model = load_model(args)
    report = evaluate(
        model,
        _dataset(args, model.labels),
        model_name=title_of(args),
        device=device,
        boundary_width=args.boundary_width,
        limit=args.limit,
        skip_bad=args.skip_bad,
        views=views,
        rank=rank,
        world_size=world_size,
    )
    if rank == 0:
        print(report.table())
        report.save(args.out)
    return 0


def _process(device: str | None) -> "tuple[int, int, Device]":
    """Rank, number of processes and device: one process, or what `accelerate launch` began."""
    from pna.predict import default_device

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1, device or default_device()
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    from pna.train.processes import check_joined

    # Unless told so, accelerate takes each of several processes on CPUs for the only one.
    state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
    check_joined(state.num_processes)
    return state.process_index, state.num_processes, state.device


def _dataset(args: argparse.Namespace, labels: "LabelSpace") -> "SegmentationDataset":
    from pna.data import DATASETS, create_dataset

    if args.dataset == "folder":  # it doesn't say what its labels mean; the model does
        return create_dataset(
            "folder",
            args.root,
            args.split,
            labels=labels,
            split_list=args.split_list,
            masks=args.masks,
        )
    if args.dataset in DATASETS and args.split is None:  # the default is the training part
        raise ValueError("which part of the dataset is to be scored? Give --split, such as val")
    return create_dataset(
        args.dataset, args.root, args.split, split_list=args.split_list, masks=args.masks
    )
