"""`pna recipes`: the recipes that come with the package."""

import argparse

HELP = "list the bundled recipes: paper, data set, model, score, command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="list only the recipes whose rows hold all of these, for example: 'table 3' swin",
    )


def run(args: argparse.Namespace) -> int:
    """Print a table.

    Raises:
        ValueError: No recipe holds the words.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pna.train.recipe_files import bundled_recipes

    table = Table("recipe", "paper", "data set", "model", "score", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for name in bundled_recipes():
        row = describe(name)
        if all(word.casefold() in " ".join(row).casefold() for word in args.words):
            table.add_row(*row)
    if not table.row_count:
        raise ValueError(f"no recipe holds all of {args.words}; `pna recipes` lists them all")
    Console().print(table)
    print("Train one: pna train RECIPE -o runs/RECIPE --set data.root=PATH")
    return 0


def describe(name: str) -> tuple[str, str, str, str, str]:
    """The row of a recipe: name, paper, data set, model and score."""
    from pna.train.recipe_files import load_recipe, recipe_head

    recipe, head = load_recipe(name), recipe_head(name)
    return name, head["paper"], recipe.data.name, recipe.model.title, head["score"]
