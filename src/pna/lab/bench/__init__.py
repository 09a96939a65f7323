"""Time and memory: the suites of `pna bench`, one module each.

A suite has `Settings`, the choices of the user, and `measure(settings, log)`, which returns a
`Report`; `log` is called with a line about the current measurement.
"""

SUITES = ("operator", "grids", "head", "models", "growth", "masks", "runtimes")
