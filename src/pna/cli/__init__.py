"""The command line: `pna COMMAND`.

One module a command, imported when that command runs: `pna --help` needs none of them.
`pna.__main__` is the composition root: it passes in the library's commands and the lab's, with the
presets and recipes that the lab adds.
"""

import argparse
import errno
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, TextIO

from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.model.presets import Preset

COMMANDS = {
    "demo": "run the bundled models on bundled images",
    "segment": "segment images, rasters and videos: label maps and overlays",
    "refine": "sharpen masks of any source along the edges of their images",
    "evaluate": "score a model, or a folder of predictions, on a data set",
    "train": "train a model by a recipe, or continue a run",
    "convert": "read a checkpoint of the authors' code or of mmsegmentation",
    "recipes": "list the bundled recipes",
    "data": "check a data set: counts, pairs, sizes, labels",
    "app": "serve a page: drop an image, see it segmented stage by stage",
    "export": "write a model into an ONNX or pt2 file that runs without pna",
    "push": "upload a trained model and its card to the Hugging Face hub",
    "info": "count the parameters and multiply-accumulates of a model",
}
"""The library's commands and their lines in `pna --help`; the modules are `pna.cli.NAME`."""

# No space, no permission, a folder where a file should be: of the machine, not of this program.
_MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def _library_presets() -> "Mapping[str, Preset]":
    from pna.model.presets import PRESETS

    return PRESETS


@dataclass(frozen=True)
class Setup:
    """The parts that commands get from the composition root; in their arguments as `args.setup`.

    Attributes:
        load_presets: Returns the presets that `--model` and recipes may name.
        recipe_folders: Folders with bundled recipes, beside the library's own.
    """

    load_presets: "Callable[[], Mapping[str, Preset]]" = _library_presets
    recipe_folders: Sequence[Traversable] = ()


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        module: Has `add_arguments(parser)`, which may set `parser.epilog`, and `run(args)`, which
            returns the exit status.
        help: One line for `pna --help`.
    """

    module: str
    help: str


def library_commands() -> dict[str, Command]:
    """Return the library's commands, by name."""
    return {name: Command(f"pna.cli.{name}", text) for name, text in COMMANDS.items()}


def main(
    argv: Sequence[str] | None = None,
    *,
    commands: Mapping[str, Command] | None = None,
    setup: Setup | None = None,
) -> int:
    """Run a command.

    A `PnaError`, an operating system's error about a file, or a missing package of `pna[train]`
    becomes one line. Every other exception is a defect and keeps its traceback.

    Args:
        argv: The words after `pna`; those of this process by default.
        commands: By name; the library's own by default.
        setup: Presets and recipes for the commands; the library's own by default.

    Returns:
        0 on success, 1 where a part of the work failed, 2 on wrong use.

    Example:
        >>> main(["info", "--model", "no-such-model"])
        2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parse(words, library_commands() if commands is None else commands)
    args.setup = Setup() if setup is None else setup
    try:
        with _warnings_as_lines(args.command), _interrupted_by_sigterm():
            return int(args.run(args))
    except KeyboardInterrupt:
        print(f"pna {args.command}: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells report it
    except BrokenPipeError:  # the reader, such as `head`, has closed: no error of the user's
        # Python flushes standard output at exit, which would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        from pna.train import EXTRA

        missing = (error.name or "").partition(".")[0]
        if args.debug or missing not in EXTRA:
            raise
        print(
            f"pna {args.command}: needs {missing}, which is not installed: pip install "
            "'pna[train]'",
            file=sys.stderr,
        )
        return 2
    except (PnaError, OSError) as error:
        if args.debug or not is_for_users(error):
            raise
        print(f"pna {args.command}: {error}", file=sys.stderr)
        return 2


def _parse(words: Sequence[str], commands: Mapping[str, Command]) -> argparse.Namespace:
    from pna import __version__

    parser = argparse.ArgumentParser(
        prog="pna",
        description="Semantic segmentation, refined by Progressive Neighborhood Aggregation.",
        epilog="Options of a command: pna COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"pna {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of all errors")
    actions = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Options of `pna` itself take no values, so the first other word is the command.
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, command in commands.items():
        subparser = actions.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == wanted:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            # Without a default here, so that `pna --debug COMMAND` is not undone.
            subparser.add_argument(
                "--debug",
                action="store_true",
                default=argparse.SUPPRESS,
                help="show tracebacks of all errors",
            )
            subparser.set_defaults(run=module.run)
    return parser.parse_args(words)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what is half-written is removed on the way."""
    if threading.current_thread() is not threading.main_thread():  # others set no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _warnings_as_lines(command: str) -> Iterator[None]:
    """Print warnings for users as one line on standard error, without file and line number."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_line(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            # Those of other kinds (deprecations) are for developers, who need file and line.
            if issubclass(category, UserWarning):
                print(f"pna {command}: warning: {message}", file=sys.stderr)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_line
        yield


def is_for_users(error: Exception) -> bool:
    """Return whether an error is a `PnaError`, or the system's about a file or a full disk."""
    if isinstance(error, PnaError):
        return True
    return isinstance(error, OSError) and (
        error.filename is not None or error.errno in _MACHINE_ERRORS
    )
