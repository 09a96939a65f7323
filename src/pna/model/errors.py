"""The one error of this box that is neither wrong use nor a defect."""


class WeightsError(OSError):
    """Weights cannot be had: no network, no package, a damaged file, a hub that refuses."""
