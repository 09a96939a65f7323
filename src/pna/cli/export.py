"""`pna export`: a model as one file that runs without pna."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.options import parse_size
from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.export.description import Precision
    from pna.export.write import ExportReport

UPSAMPLER = "upsampler"
MASK_REFINER = "mask-refiner"

EPILOG = """\
An ONNX file needs pip install "pna[export]" to be written and checked. Images are RGB in [0, 1] of
any height and width; normalization and padding are inside, names and colors of the classes too.

examples:
  pna export voc-lite -o voc-lite.onnx
  pna segment photos/ --model voc-lite.onnx -o out
  pna export runs/own/model -o model.pt2 --to pt2 --stages
  pna export voc-lite -o voc-lite-int8.onnx --int8 photos/
  pna export upsampler -o upsampler.onnx
  pna export mask-refiner -o mask-refiner.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a bundled model's name, a saved model's folder, "
        f"{MASK_REFINER} or the weights of another one (.safetensors), or {UPSAMPLER}, which "
        "upsamples features",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2"
    )
    parser.add_argument(
        "--to",
        choices=("onnx", "pt2"),
        default="onnx",
        help="the format (default: %(default)s); pt2 is torch.export's own",
    )
    parser.add_argument(
        "--stages", action="store_true", help="also return the logits of P0, P1, ... as p0, p1, ..."
    )
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument(
        "--half", action="store_true", help="compute in float16; images and logits stay float32"
    )
    precision.add_argument(
        "--int8",
        nargs="+",
        metavar="PATH",
        help="quantize to int8 by these images (files, folders, patterns; a few dozen of the kind "
        "that the model will see)",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="H,W",
        help="fix height and width, for a network that cannot leave them free",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file and print the comparison with PyTorch."""
    from pna.export.write import check_target

    # Before a model is read and traced: a wrong name ends it at once.
    check_target(args.out, args.to)
    others = (UPSAMPLER, MASK_REFINER)
    is_segmenter = args.model not in others and Path(args.model).suffix != ".safetensors"
    report = _export_segmenter(args) if is_segmenter else _export_other(args)
    for parity in report.parity:
        print(f"  {parity}")
    if report.loss is not None:
        print(f"int8 against float32 on {report.loss}")
    size = report.file.stat().st_size / 1e6
    fixed = report.description.size
    sizes = "any size" if fixed is None else f"images of {fixed[0]}x{fixed[1]} alone"
    print(f"{report.file}: {report.description.precision}, {sizes}, {size:.1f} MB")
    return 0


def _export_segmenter(args: argparse.Namespace) -> "ExportReport":
    from pna.cli.batch import find_images, report_left_out
    from pna.export.write import export_model
    from pna.model.loading import load

    precision: Precision = "int8" if args.int8 else "float16" if args.half else "float32"
    images, skipped = find_images(args.int8 or [])
    report_left_out(skipped)
    model = load(args.model, presets=args.setup.load_presets())
    print(f"{args.model} in {args.to} against PyTorch, batch x channels x height x width:")
    return export_model(
        model,
        args.out,
        to=args.to,
        stages=args.stages,
        precision=precision,
        size=args.size,
        calibration=images,
    )


def _export_other(args: argparse.Namespace) -> "ExportReport":
    from pna.export.refiners import export_mask_refiner, export_upsampler
    from pna.export.session import CPU
    from pna.inference.refine import bundled_mask_refiner, load_mask_refiner
    from pna.inference.upsample import bundled_upsampler

    given = [name for name in ("stages", "half", "int8", "size") if getattr(args, name)]
    if given:
        raise PnaError(f"--{given[0]} is for segmentation models, got {args.model}: leave it out")
    print(f"{args.model} in {args.to} against PyTorch, batch x channels x height x width:")
    if args.model == UPSAMPLER:
        return export_upsampler(bundled_upsampler(CPU), args.out, to=args.to)
    is_bundled = args.model == MASK_REFINER
    network = bundled_mask_refiner(CPU) if is_bundled else load_mask_refiner(Path(args.model))
    return export_mask_refiner(network, args.out, to=args.to)
