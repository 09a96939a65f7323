"""`pna recipes`: the recipes that come with the package."""

import argparse

from pna.cli.tables import format_table
from pna.errors import PnaError

EPILOG = """\
examples:
  pna recipes
  pna recipes "table 3" swin
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="list the recipes whose rows hold all of these words",
    )


def run(args: argparse.Namespace) -> int:
    """Print a table.

    Raises:
        PnaError: No recipe holds the words.
    """
    from pna.train import bundled_recipes, load_recipe, recipe_head
    from pna.train.recipe import RECIPES

    folders, presets = (RECIPES, *args.setup.recipe_folders), args.setup.load_presets()
    rows = []
    for name in bundled_recipes(folders):
        recipe = load_recipe(name, folders=folders, presets=presets)
        head = recipe_head(name, folders)
        # Words are matched against the row itself, so that every hit shows why it is one.
        row = (name, recipe.data.name, recipe.model.title, head["paper"], head["score"])
        if all(word.casefold() in " ".join(row).casefold() for word in args.words):
            rows.append(row)
    if not rows:
        raise PnaError(f"no recipe holds all of {args.words}; `pna recipes` lists them all")
    print(format_table(("recipe", "data set", "model", "paper", "score"), rows, numbers=False))
    print("\nTrain one: pna train RECIPE --root PATH -o runs/RECIPE")
    return 0
