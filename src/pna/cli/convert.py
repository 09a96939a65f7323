"""`pna convert`: a checkpoint of the authors' code, or of mmsegmentation, as a saved model."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.labels import LabelSpace
    from pna.model.config import ModelOptions
    from pna.model.segmenter import Segmenter

EPILOG = """\
examples:
  pna convert pna_fcn_r50-d32_512x512_20k_voc.pth -o models/fcn-voc
  pna convert model_final.pth --dataset trans10k -o models/fpn-trans10k
  pna convert own.pth --labels labels.json --pool-window 32,32 -o models/own
What the tensors do not say is taken from the authors' configuration of the data set; it is printed.
"""

DATASETS = ("voc2012", "cocostuff10k", "cityscapes", "deepglobe", "trans10k")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="a file of the authors' mmsegmentation or detectron2 branch, or of mmsegmentation "
        "itself: .pth, .ckpt, .safetensors",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="MODEL",
        help="folder for the saved model, made if missing",
    )
    trained = parser.add_argument_group("training that the checkpoint comes from")
    trained.add_argument(
        "--dataset",
        choices=DATASETS,
        help="the authors' data set (default: the one of that branch with as many classes)",
    )
    trained.add_argument(
        "--labels",
        metavar="SPACE",
        help="classes of other data: a known name such as camvid, or the file of a label space",
    )
    parts = parser.add_argument_group(
        "what the tensors do not say",
        "By default as in the authors' configuration.",
    )
    parts.add_argument(
        "--upsample",
        choices=("nearest", "bilinear"),
        help="how predictions are resized between stages",
    )
    parts.add_argument(
        "--output-stride", type=int, choices=(8, 16, 32), help="stride of the encoder's last level"
    )
    parts.add_argument(
        "--multi-grid",
        type=parse_numbers,
        metavar="N,N,N",
        help="factors on the dilation of the blocks of a ResNet's last stage",
    )
    parts.add_argument(
        "--rates", type=parse_numbers, metavar="N,N,N", help="dilations of DeepLabV3's branches"
    )
    parts.add_argument(
        "--pool-window",
        type=parse_numbers,
        metavar="H,W",
        help="windows of DeepLabV3's pooled branch (detectron2 branch): the crop by 16, in cells",
    )
    parts.add_argument(
        "--own-size",
        action="store_true",
        help="segment images at their own size, not resized as in the authors' test",
    )


def run(args: argparse.Namespace) -> int:
    """Convert, and print what the model is."""
    from pna.labels import read_label_space
    from pna.model.loading import read_checkpoint

    options = _options_of(args)  # before a large file is read
    if args.out.exists() and not args.out.is_dir():
        raise PnaError(f"--out {args.out} is a file, expected a folder for the model")
    labels = None if args.labels is None else read_label_space(args.labels)
    content = read_checkpoint(args.checkpoint)
    try:
        model = _read(content, args, labels, options)
    except PnaError as error:
        raise PnaError(f"{args.checkpoint}: {error}") from error
    weights = {k: x for k, x in model.state_dict().items() if x.is_floating_point()}
    if broken := [name for name, x in weights.items() if not x.isfinite().all()]:
        raise PnaError(
            f"{args.checkpoint}: {len(broken)} weights hold infinite values or none (NaN), such as "
            f"{broken[0]}: its training went wrong; take an earlier checkpoint"
        )
    model.save_pretrained(args.out)
    print(describe(model))
    print(f"saved: pna segment IMAGE --model {args.out} -o OUT")
    return 0


def _read(
    content: Any, args: argparse.Namespace, labels: "LabelSpace | None", options: "ModelOptions"
) -> "Segmenter":
    from pna.model.loading import from_authors, from_mmsegmentation, is_mmsegmentation

    if not is_mmsegmentation(content):
        return from_authors(
            content,
            dataset=args.dataset,
            labels=labels,
            upsample=args.upsample,
            options=options,
            resize_images=not args.own_size,
        )
    # Silently ignored they would seem to have an effect.
    for name in ("dataset", "upsample"):
        if getattr(args, name) is not None:
            raise PnaError(
                f"--{name} is for models with a refinement, this is one of mmsegmentation itself: "
                "leave it out"
            )
    return from_mmsegmentation(content, labels=labels, options=options)


def _options_of(args: argparse.Namespace) -> "ModelOptions":
    from pna.model.config import ModelOptions

    return ModelOptions(
        output_stride=args.output_stride,
        multi_grid=args.multi_grid,
        rates=args.rates,
        pool_window=args.pool_window,
    )


def describe(model: "Segmenter") -> str:
    """Return the lines on a converted model: parts, classes, and what was not in the tensors."""
    from pna.model.config import ModelConfig

    config, labels = model.config, model.labels
    assert isinstance(config, ModelConfig)
    pna, options = config.pna, config.options
    lines = [f"{config.preset} on {config.encoder}"]
    if pna is not None:
        windows = pna.window if isinstance(pna.window, tuple) else (pna.window,)
        lines[0] += f", window {', '.join(map(str, sorted(set(windows))))}"
        lines.append(f"resized between stages: {pna.upsample}")
    names = ", ".join(labels.classes[:4]) + ", ..." * (labels.num_classes > 4)
    lines.append(f"classes: {labels.num_classes} ({labels.name}): {names}")
    told: list[tuple[str, object, Callable[[object], str]]] = [
        ("output stride", options.output_stride, str),
        ("multi-grid", options.multi_grid, _joined),
        ("rates", options.rates, _joined),
        ("pooling window", options.pool_window, _joined),
        ("padding", options.padding, str),
        ("images resized", model.inference_size, str),
    ]
    lines += [f"{name}: {form(value)}" for name, value, form in told if value is not None]
    return "\n".join(lines)


def _joined(numbers: object) -> str:
    assert isinstance(numbers, tuple)
    return ", ".join(map(str, numbers))


def parse_numbers(text: str) -> tuple[int, ...]:
    """Read "N,N,..." as whole numbers from 1."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas between them, for example 1,2,4; got {text!r}"
        )
    return numbers
