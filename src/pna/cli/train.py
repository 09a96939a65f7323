"""`pna train`: train by a recipe, or continue a run."""

import argparse
import os
import sys
from pathlib import Path

HELP = "train a model by a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "recipe",
        nargs="?",
        help="a YAML file or the name of a bundled recipe; "
        "with --resume it may be left out: the run's own is taken",
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
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting of the recipe, e.g. --set run.batch_size=4; may be repeated",
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN")


def run(args: argparse.Namespace) -> int:
    """Train; returns 0 when finished or stopped on request, 1 if it broke off.

    Raises:
        ValueError: The recipe, the run folder or the data isn't as it should be.
        FileNotFoundError: The recipe, the data or the run isn't there.
    """
    from pna.train import TrainingError, load_recipe, train  # accelerate and timm take their time

    recipe = load_recipe(_recipe_source(args), args.overrides)
    try:
        outcome = train(recipe, args.out, resume=args.resume)
    except (FloatingPointError, TrainingError) as error:
        print(error, file=sys.stderr)
        return 1
    if os.environ.get("RANK", "0") == "0":  # one of several processes speaks
        print(_explain(outcome, args.out))
    return 0


def _explain(outcome: str, run: Path) -> str:
    if outcome == "stopped":
        return f"stopped; continue with: pna train --resume -o {run}"
    return f"finished; the model is in {run / 'model'}, its scores in {run / 'evaluation'}"


def _recipe_source(args: argparse.Namespace) -> str | Path:
    if args.recipe is not None:
        return str(args.recipe)
    if not args.resume:
        raise ValueError("expected a recipe, got none: name one, or continue a run with --resume")
    resolved: Path = args.out / "recipe.yaml"
    if not resolved.is_file():
        raise FileNotFoundError(f"{args.out}: expected a run to resume, found no {resolved.name}")
    return resolved
