"""`pna info`: parameters and multiply-accumulates of a model, part by part."""

import argparse

from pna.cli.options import parse_size
from pna.cli.tables import format_table
from pna.errors import PnaError

EPILOG = """\
examples:
  pna info --model voc-lite
  pna info --model fcn-pna --encoder resnet50c --classes 19 --size 512,1024
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--model", required=True, help="a preset, a bundled model's name, or a saved model's folder"
    )
    parser.add_argument("--encoder", help="build the preset on this timm model")
    parser.add_argument(
        "--classes",
        type=int,
        default=21,
        metavar="K",
        help="build the preset for K classes (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        default=(512, 512),
        metavar="H,W",
        help="height and width of the image in pixels (default: 512,512)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the counts."""
    from pna.model.counts import count
    from pna.model.loading import create_or_load

    if args.classes < 1:
        raise PnaError(f"--classes must be 1 or more, got {args.classes}")
    # Those of the lab too: see `pna.__main__`.
    presets = args.setup.load_presets()
    model = create_or_load(
        args.model, encoder=args.encoder, num_classes=args.classes, presets=presets
    )
    parts = count(model, args.size)
    # The auxiliary head trains and does not run: papers count without it.
    main = [part for part in parts if part.part != "auxiliary head"]
    groups = [(part.part, [part]) for part in parts]
    groups += [("total", parts), ("without auxiliary head", main)]
    rows = [
        (
            title,
            f"{sum(part.parameters for part in members) / 1e6:.2f}",
            f"{sum(part.macs for part in members) / 1e9:.2f}",
            f"{sum(part.attention_macs for part in members) / 1e9:.2f}",
        )
        for title, members in groups
    ]
    height, width = args.size
    print(f"{args.model}, {height}x{width}")
    print()
    print(format_table(("part", "parameters (M)", "GMACs", "attention product (GMACs)"), rows))
    labels, strides = model.labels, ", ".join(map(str, model.strides))
    print()
    print(f"{model.origin}, strides {strides}; {model.num_stages} refinement stages")
    print(f"{labels.num_classes} classes ({labels.name}): {', '.join(labels.classes)}")
    return 0
