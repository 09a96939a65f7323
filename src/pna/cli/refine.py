"""The argument that puts a refiner that needs no training behind a saved model."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.model.segmenter import BaseSegmenter


def add_refine_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--refine`."""
    parser.add_argument(
        "--refine",
        choices=("crf",),
        help="refine the model's output, as one stage more: crf, the dense CRF along the picture's "
        "edges",
    )


def load_model(args: argparse.Namespace) -> "BaseSegmenter":
    """Load `--model`, with what `--refine` names behind it."""
    from pna.model.checkpoints import load

    model = load(args.model)
    if args.refine is None:
        return model
    from pna.model.rivals.chain import behind
    from pna.model.rivals.dense_crf import DenseCRF

    return behind(model, DenseCRF())


def title_of(args: argparse.Namespace) -> str:
    """What a report calls the model."""
    return str(args.model) if args.refine is None else f"{args.model} + {args.refine}"
