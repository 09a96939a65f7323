"""`pna comparisons`: the comparisons that come with the package."""

import argparse

EPILOG = """\
examples:
  pna comparisons
  pna compare camvid-lite -o runs/camvid-lite --set data.root=PATH
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    """Print a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pna.lab.compare import bundled_comparisons, comparison_head

    table = Table("comparison", "shows", "hours", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for name in bundled_comparisons():
        head = comparison_head(name)
        table.add_row(name, head["shows"], head["hours"])
    Console().print(table)
    print("Run one: pna compare NAME -o runs/NAME --set data.root=PATH")
    return 0
