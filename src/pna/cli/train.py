"""`pna train`: train by a recipe, or continue a run."""

import argparse
import json
import os
import sys
from pathlib import Path

from pna.cli.options import add_device_argument
from pna.errors import MissingFileError, PnaError

EPILOG = """\
examples:
  pna train voc-lite --root data/voc2012 -o runs/voc-lite
  pna train own.yaml --set run.batch_size=4 -o runs/own
  pna train --resume -o runs/voc-lite
`pna recipes` lists the bundled recipes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="a YAML file or a bundled recipe's name; with --resume by default that of the run",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder for log, checkpoints, the model and its evaluation; new or empty",
    )
    parser.add_argument(
        "--root",
        metavar="PATH",
        help="the folder of the data set, instead of the recipe's data.root",
    )
    parser.add_argument(
        "--init-from",
        metavar="MODEL",
        help="start from a saved model, also one with other classes (model.init_from)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting of the recipe, such as run.batch_size=4; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN")
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train; 0 when finished or stopped on request, 1 if the run broke off.

    Raises:
        PnaError: The recipe, the run folder, the data or the device is not as it should be.
        MissingFileError: The recipe, the data or the run is not there.
    """
    from pna.inference.devices import find_device
    from pna.train import TrainingError, load_recipe, train
    from pna.train.recipe import RECIPES

    if args.device is not None:
        # Accelerate reads these variables at its start, and takes no device as an argument.
        device = find_device(args.device)
        if device.type == "cpu":
            os.environ["ACCELERATE_USE_CPU"] = "1"
        else:
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    overrides = list(args.overrides)
    for key, path in (("data.root", args.root), ("model.init_from", args.init_from)):
        if path is not None:
            # JSON is YAML: quoted, a path is text whatever is in it.
            overrides.append(f"{key}={json.dumps(path)}")
    folders, presets = (RECIPES, *args.setup.recipe_folders), args.setup.load_presets()
    recipe = load_recipe(_recipe_source(args), overrides, folders=folders, presets=presets)
    try:
        outcome = train(recipe, args.out, resume=args.resume, presets=presets)
    # These end a run that was under way: status 1, since nothing was wrong with the command.
    except (TrainingError, FloatingPointError) as error:
        if args.debug:
            raise
        print(f"pna train: {error}", file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":  # of several processes one prints
        if outcome == "stopped":
            print(f"stopped; continue with: pna train --resume -o {args.out}")
        else:
            model, scores = args.out / "model", args.out / "evaluation"
            print(f"finished; the model is in {model}, its scores in {scores}")
    return 0


def _recipe_source(args: argparse.Namespace) -> str | Path:
    if args.recipe is not None:
        return str(args.recipe)
    if not args.resume:
        raise PnaError("expected a recipe, got none: name one, or continue a run with --resume")
    # The run keeps the recipe with all overrides applied.
    resolved: Path = args.out / "recipe.yaml"
    if not resolved.is_file():
        raise MissingFileError(f"{args.out}: expected a run to resume, found no {resolved.name}")
    return resolved
