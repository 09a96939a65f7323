"""Commands of the lab, which `pna.__main__` adds to the command line."""

COMMANDS = {
    "compare": "train, score and measure several models with the same settings",
    "comparisons": "list the bundled comparisons",
    "bench": "time and memory of the operator, the refinement head and whole models",
}
"""Names and lines of the commands in `pna --help`; the modules are `pna.lab.cli.NAME`."""
