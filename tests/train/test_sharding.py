"""What FSDP is refused with. That it trains as without is in `test_processes.py`."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from torch import nn

from pna.train.processes import create_accelerator
from pna.train.sharding import check_sharding, load_moments, load_weights, whole


def sharded(version: int) -> Accelerator:
    """As on GPUs; accelerate offers FSDP there alone."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=version)
    return accelerator


def test_cpus_are_refused_where_accelerate_would_say_nothing(
    tiny: ModuleType, voc_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    recipe = tiny.tiny_recipe(voc_root)
    with pytest.raises(ValueError, match="FSDP: expected GPUs, got CPUs.* without --use_fsdp"):
        check_sharding(create_accelerator(recipe, cpu=True))


def test_the_first_version_is_refused() -> None:
    check_sharding(sharded(2))
    with pytest.raises(ValueError, match="FSDP: expected version 2, got 1.*--fsdp_version 2"):
        check_sharding(sharded(1))


def test_whole_tensors_stay_as_they_are() -> None:
    layer = nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tree = {"a": [layer.weight, 1], "b": {"c": None}}
    assert whole(tree)["a"][0] is layer.weight
    assert whole(tree)["b"] == {"c": None}
    other = nn.Linear(2, 3)
    load_weights(other, layer.state_dict())
    torch.testing.assert_close(other.weight, layer.weight)
    fresh = torch.optim.AdamW(other.parameters())
    load_moments(fresh, optimizer.state_dict())
    torch.testing.assert_close(fresh.state_dict(), optimizer.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(nn.Linear(2, 4), layer.state_dict())
