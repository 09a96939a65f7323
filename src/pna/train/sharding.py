"""FSDP, accelerate's own switch: weights, gradients and moments lie in shards on the processes.

Checkpoints, averages and evaluations take whole tensors, which are put together here. So a run may
be begun in shards and continued without, or the other way round, on any number of processes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedType,
    parse_flag_from_env,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the processes hold the weights in shards."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def check_sharding(accelerator: Accelerator) -> None:
    """Refuse an FSDP that can't serve, or would not take place.

    Raises:
        ValueError: FSDP is asked for without GPUs, or in its first version.
    """
    if not is_sharded(accelerator):
        if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.device.type == "cpu":
            raise ValueError(
                "FSDP: expected GPUs, got CPUs, where accelerate would leave it out in silence: "
                "launch without --use_fsdp"
            )
        return
    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"FSDP: expected version 2, got {plugin.fsdp_version}, which joins the weights into "
            "one vector: add --fsdp_version 2 to the launch, or fsdp_version: 2 to its file"
        )


def whole(tree: Any) -> Any:
    """Put a tensor together, or each one in dicts and lists; what is whole stays as it is.

    Every process must call this, with trees alike.
    """
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value) for value in tree]
    return tree


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole weights; where the model is sharded, this process takes its part of each.

    Raises:
        RuntimeError: They don't fit.
    """
    own = model.state_dict()
    model.load_state_dict({name: _part(value, own.get(name)) for name, value in state.items()})


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the whole state of an optimizer; where its parameters are sharded, the part of each.

    Raises:
        KeyError: It is no optimizer's state.
        ValueError: It is of other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        number: {name: _part(value, parameters[number]) for name, value in moments.items()}
        for number, moments in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _part(value: Tensor, like: Tensor | None) -> Tensor:
    if not isinstance(like, DTensor) or value.shape != like.shape:  # a count of steps is whole
        return value
    # No source rank: every process has read the whole of it.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
