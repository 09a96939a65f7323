"""The one error of the data box."""


class DataError(ValueError):
    """Pictures, masks or lists on disk are not as expected; the message names the file."""
