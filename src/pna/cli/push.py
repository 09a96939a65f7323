"""`pna push`: upload a trained model to the Hugging Face hub, with a card of scores and recipe."""

import argparse
import json
import re
from pathlib import Path

from pna.errors import PnaError

EPILOG = """\
examples:
  pna push runs/own OWNER/NAME --license apache-2.0
  pna push voc-lite OWNER/NAME --private
  pna segment photo.jpg --model OWNER/NAME -o out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run's folder, whose scores and recipe go into the card; or a saved model",
    )
    parser.add_argument("repository", metavar="OWNER/NAME", help="made if it is not there")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument(
        "--license",
        metavar="NAME",
        help="license of the weights, as the hub spells it: apache-2.0, cc-by-4.0, ...",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the card, and upload nothing")


def run(args: argparse.Namespace) -> int:
    """Upload the model, or print its card."""
    from pna.model.card import model_card
    from pna.model.loading import load
    from pna.model.saving import check_repository, push

    check_repository(args.repository)
    folder = Path(args.model)
    is_run = (folder / "model").is_dir()
    model = load(folder / "model" if is_run else args.model, presets=args.setup.load_presets())
    assert model.config is not None  # it was saved with one
    about = {"license": args.license}
    if is_run:
        recipe = _read(folder / "recipe.yaml")
        about |= {
            "scores": _read_scores(folder),
            "recipe": None if recipe is None else without_folders(recipe),
        }
    if args.dry_run:
        print(model_card(model.config, model.labels, args.repository, **about), end="")
        return 0
    address = push(model, args.repository, private=args.private, **about)
    print(f"{address}: use it as --model {args.repository}")
    return 0


def without_folders(recipe: str) -> str:
    r"""Leave the folders out of the paths in a recipe: they are nobody else's.

    Example:
        >>> without_folders("data:\n  name: camvid\n  root: /home/me/camvid\n")
        'data:\n  name: camvid\n  root: camvid\n'
    """
    paths = re.compile(r"^(\s*\w+: +)['\"]?[^'\"\s#]*[/\\]([^/\\'\"\s]+)['\"]?$", re.M)
    return paths.sub(r"\1\2", recipe)


def _read_scores(run: Path) -> dict[str, object] | None:
    path = run / "evaluation" / "scores.json"
    text = _read(path)
    if text is None:
        return None
    try:
        scores = json.loads(text)
    except ValueError as error:
        raise PnaError(f"{path}: expected JSON, got {error}: evaluate the run again") from error
    return dict(scores)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
