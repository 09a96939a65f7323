"""The command line: `pna COMMAND`. One module per command, loaded when it is asked for."""

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = ("demo", "segment", "train", "recipes", "evaluate", "compare", "data", "info", "bench")

USER_ERRORS = (ValueError, OSError)
"""What a command may raise on wrong use; anything else is a defect and keeps its traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success, 1 where a part of the work failed, 2 on wrong use.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Only the command asked for is imported: `pna --help` stays quick.
    wanted = next((a for a in arguments if a in COMMANDS), None)
    args = _parser(wanted).parse_args(arguments)
    try:
        return int(args.run(args))
    except USER_ERRORS as error:
        print(f"pna {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pna {args.command}: interrupted", file=sys.stderr)
        return 130


def _parser(wanted: str | None) -> argparse.ArgumentParser:
    from pna import __version__

    parser = argparse.ArgumentParser(
        prog="pna", description="Semantic segmentation, refined by neighborhood aggregation."
    )
    parser.add_argument("--version", action="version", version=f"pna {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"pna.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        if name == wanted:
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser
