"""`pna info`: parameters and multiply-accumulates of a model, part by part."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.model.segmenter import BaseSegmenter

HELP = "parameters and multiply-accumulates of a model, part by part"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="a preset, a bundled model's name or a saved folder")
    parser.add_argument("--encoder", help="timm model to build a preset on")
    parser.add_argument("--classes", type=int, default=21, help="of a preset (%(default)s)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(512, 512),
        metavar=("H", "W"),
        help="of the picture, in pixels (512 512)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the counts."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pna.model.checkpoints import create_or_load
    from pna.model.counts import count

    model = create_or_load(args.model, encoder=args.encoder, num_classes=args.classes)
    height, width = args.size
    parts = count(model, (height, width))
    table = Table("part", title=f"{args.model}, {height}x{width}", box=box.SIMPLE)
    for column in ("parameters (M)", "GMACs", "attention product (GMACs)"):
        table.add_column(column, justify="right")
    main = [part for part in parts if part.part != "auxiliary head"]
    rows = [(part.part, [part]) for part in parts]
    rows += [("total", parts), ("without auxiliary head", main)]
    for title, members in rows:
        if title == "total":
            table.add_section()
        table.add_row(
            title,
            f"{sum(part.parameters for part in members) / 1e6:.2f}",
            f"{sum(part.macs for part in members) / 1e9:.2f}",
            f"{sum(part.attention_macs for part in members) / 1e9:.2f}",
        )
    Console().print(table)
    _print_description(model)
    return 0


def _print_description(model: "BaseSegmenter") -> None:
    labels = model.labels
    strides = ", ".join(map(str, model.strides))
    print(f"{model.origin}, strides {strides}; {model.num_stages} refinement stages")
    print(f"{labels.num_classes} classes ({labels.name}): {', '.join(labels.classes)}")
