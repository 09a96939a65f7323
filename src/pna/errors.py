"""Errors that are meant for users.

The command line prints a `PnaError` as one line and exits with status 2. Every other exception is a
defect of pna (or of a library below it) and keeps its traceback.
"""


class PnaError(ValueError):
    """Wrong use or wrong input. The message holds the expected value, the actual one, a remedy."""


class UnsupportedError(PnaError):
    """The model cannot give what was asked of it, whatever the image."""


class MissingFileError(PnaError, FileNotFoundError):
    """A file or folder that was named is not there."""

    # Both bases define `__str__`; FileNotFoundError's would print an errno.
    __str__ = Exception.__str__


class WeightsError(PnaError, OSError):
    """Weights cannot be had: no network, no package, a damaged file, a hub that refuses."""

    __str__ = Exception.__str__
