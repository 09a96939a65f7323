"""`pna` and `python -m pna`: the library's commands and the lab's, wired together.

This is the only place where both are known: `pna.cli` does not import the lab.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from pna import cli

if TYPE_CHECKING:
    from pna.model.presets import Preset


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of the library or of the lab; see `pna.cli.main`."""
    from pna.lab.cli import COMMANDS

    lab = {name: cli.Command(f"pna.lab.cli.{name}", text) for name, text in COMMANDS.items()}
    setup = cli.Setup(_presets, (resources.files("pna.lab") / "recipes",))
    return cli.main(argv, commands=cli.library_commands() | lab, setup=setup)


def _presets() -> "Mapping[str, Preset]":
    from pna.lab.baselines import PRESETS

    return PRESETS


if __name__ == "__main__":
    sys.exit(main())
