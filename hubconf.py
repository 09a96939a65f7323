"""Entry points for `torch.hub.load("OWNER/pna", NAME)`; pna itself has to be installed."""

from typing import Any

dependencies = ["torch", "timm", "pna"]


def voc_lite(**options: Any) -> Any:
    """Load the bundled model of the 21 classes of VOC 2012; options are those of `pna.load`."""
    import pna

    return pna.load("voc-lite", **options)


def damage_lite(**options: Any) -> Any:
    """Load the bundled model of damaged concrete; options are those of `pna.load`."""
    import pna

    return pna.load("damage-lite", **options)


def create_model(preset: str, num_classes: int, **options: Any) -> Any:
    """Build a preset, such as "fcn-pna"; options are those of `pna.create_model`."""
    import pna

    return pna.create_model(preset, num_classes, **options)
