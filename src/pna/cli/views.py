"""Arguments that several commands share: how pictures are looked at."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.views import Views


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--tile`, `--overlap`, `--scales` and `--flip`."""
    group = parser.add_argument_group(
        "views", "how a picture is looked at; by default once, whole and at its own size"
    )
    group.add_argument(
        "--tile",
        type=parse_size,
        metavar="H,W",
        help="in overlapping tiles of this height and width in pixels, blended smoothly",
    )
    group.add_argument(
        "--overlap",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="least share of a tile that its neighbour covers too, in [0, 1) (%(default)s)",
    )
    group.add_argument(
        "--scales",
        type=parse_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="at several sizes, factors on the picture's own, for example 0.5,1,1.5",
    )
    group.add_argument("--flip", action="store_true", help="mirrored too")


def views_of(args: argparse.Namespace) -> "Views":
    """The views that the arguments ask for."""
    from pna.views import Views

    return Views(tile=args.tile, overlap=args.overlap, scales=args.scales, flip=args.flip)


def parse_size(text: str) -> tuple[int, int]:
    """Read "H,W" as a size in pixels."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a height and a width as H,W, for example 512,1024; got {text!r}"
        ) from None
    return height, width


def parse_scales(text: str) -> tuple[float, ...]:
    """Read "S,S,..." as factors."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected factors with commas between them, for example 0.5,1,1.5; got {text!r}"
        ) from None
