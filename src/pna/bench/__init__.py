"""Where time and memory go: the suites of `pna bench`, one module each.

A suite has `Settings`, what a user can choose, and `measure(settings, say)`, which returns a
`Report`; `say` takes a line about what is being measured.
"""

SUITES = ("operator", "head", "models", "growth")
