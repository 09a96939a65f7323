"""Arguments that several commands share: one name, one form and one help text for each thing."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pna.errors import PnaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pna.bands import Band
    from pna.data import SegmentationDataset
    from pna.inference.tiling import TilingConfig
    from pna.labels import Color, LabelSpace
    from pna.model.segmenter import BaseSegmenter

DATASET_NAMES = (
    "voc2012, cityscapes, cocostuff10k, deepglobe, trans10k, camvid, damage, or folder (images and "
    "masks of your own)"
)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)"
    )


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--dataset`, `--root`, `--split`, and for folders `--labels`, `--masks` and so on."""
    group = parser.add_argument_group("data set")
    group.add_argument(
        "--dataset", required=True, metavar="NAME", help=f"its name: {DATASET_NAMES}"
    )
    group.add_argument(
        "--root", type=Path, required=True, metavar="PATH", help="the folder of the data set"
    )
    group.add_argument("--split", metavar="NAME", help="its part, such as val")
    group.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="processes that read files; 0 reads in this one (default: %(default)s)",
    )
    folder = parser.add_argument_group("of --dataset folder")
    folder.add_argument(
        "--labels",
        metavar="SPACE",
        help="classes: a known name such as camvid, or the file of a label space (JSON, or CVAT's "
        "labelmap.txt)",
    )
    folder.add_argument(
        "--masks",
        choices=("index", "color", "polygons"),
        help="masks hold class indices, colors, or polygons in GeoJSON or GeoPackage (default: "
        "index)",
    )
    folder.add_argument(
        "--class-property",
        metavar="NAME",
        help="the property of a polygon that holds its class (default: class)",
    )
    folder.add_argument(
        "--ignore",
        type=parse_ignore,
        metavar="VALUE",
        help="ignored pixels in the masks, besides 255: a value, or a color such as 0,0,0",
    )
    folder.add_argument(
        "--split-list", type=Path, metavar="FILE", help="use the stems in this file, one a line"
    )
    folder.add_argument(
        "--bands",
        type=Path,
        metavar="FILE",
        help="the channels of images that are not RGB: a file of `pna data bands`",
    )


def create_dataset_of(
    args: argparse.Namespace,
    split: str | None,
    labels: "LabelSpace | None" = None,
    bands: "Sequence[Band] | None" = None,
) -> "SegmentationDataset":
    """Make the data set of the arguments.

    Args:
        args: With those of `add_dataset_arguments`.
        split: The part to take.
        labels: Classes of a folder without `--labels`.
        bands: Channels of its images without `--bands`.
    """
    from pna.bands import read_band_file
    from pna.data import create_dataset
    from pna.labels import read_label_space

    # --labels wins over the classes of a model: the user named them.
    if args.labels is not None:
        labels = read_label_space(args.labels)
    return create_dataset(
        args.dataset,
        args.root,
        split,
        labels=labels,
        split_list=args.split_list,
        masks=args.masks,
        ignore=args.ignore,
        class_property=args.class_property,
        bands=bands if args.bands is None else read_band_file(args.bands),
    )


def check_dataset_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, before a file is opened."""
    from pna.data import DATASETS

    if args.dataset not in DATASETS:
        raise PnaError(f"no data set {args.dataset!r}: expected one of {', '.join(DATASETS)}")
    if args.workers < 0:
        raise PnaError(f"--workers must be 0 or more, got {args.workers}")
    # Silently ignored they would score or check something else than was asked for.
    given = [
        name
        for name in ("labels", "masks", "class_property", "ignore", "split_list", "bands")
        if getattr(args, name) is not None
    ]
    if args.dataset != "folder" and given:
        option = given[0].replace("_", "-")
        raise PnaError(
            f"--{option} is for --dataset folder; {args.dataset} has classes and files of its own"
        )


def parse_ignore(text: str) -> "int | Color":
    """Read a value, or a color as "R,G,B"."""
    try:
        parts = [int(part) for part in text.split(",")]
    except ValueError:  # refused below, with the other lengths
        parts = []
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    raise argparse.ArgumentTypeError(
        f"expected a value such as 0, or a color such as 0,0,0; got {text!r}"
    )


def add_tiling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--tile`, `--overlap`, `--scales` and `--flip`."""
    group = parser.add_argument_group(
        "sliding window and test-time augmentation",
        "By default the network runs once, on the whole image at its own size.",
    )
    group.add_argument(
        "--tile",
        type=parse_size,
        metavar="H,W",
        help="run overlapping tiles of this height and width in pixels and blend them; for images "
        "that are too large for the memory",
    )
    group.add_argument(
        "--overlap",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="least share of a tile that its neighbor covers too, in [0, 1) (default: %(default)s)",
    )
    group.add_argument(
        "--scales",
        type=parse_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="average over several sizes: factors on the image's own, such as 0.5,1,1.5",
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")


def tiling_of(args: argparse.Namespace) -> "TilingConfig":
    """Build the configuration of the tiling arguments."""
    from pna.inference.tiling import TilingConfig

    return TilingConfig(tile=args.tile, overlap=args.overlap, scales=args.scales, flip=args.flip)


def load_model(args: argparse.Namespace) -> "BaseSegmenter":
    """Open the model of `--model`, to run it on `--device`."""
    from pna.inference.devices import find_device
    from pna.inference.opening import open_model

    device = find_device(args.device)
    return open_model(args.model, device=device, presets=args.setup.load_presets())


def parse_size(text: str) -> tuple[int, int]:
    """Read "H,W" as a height and a width of at least 1 pixel."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:  # no numbers, or not two
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(
            f"expected a height and a width as H,W, for example 512,1024; got {text!r}"
        )
    return height, width


def parse_scales(text: str) -> tuple[float, ...]:
    """Read "S,S,..." as factors."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected factors with commas between them, for example 0.5,1,1.5; got {text!r}"
        ) from None
