"""The error and the warning of the data room."""

from pna.errors import PnaError


class DataError(PnaError):
    """Images, masks or lists on disk are not as expected; the message names the file."""


class DataWarning(UserWarning):
    """Data can be read, but is probably wrong; the message holds the remedy."""
