"""Turn a pair of functions into a custom operator that autograd and `torch.compile` support."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, Tensor, Tensor | None, int, float], Tensor]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor | None, int, float],
    tuple[Tensor, Tensor, Tensor, Tensor],
]


def register(
    name: str, forward: Forward, backward: Backward, empty_like: Callable[[Tensor], Tensor]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Register `pna::NAME` and `pna::NAME_backward`.

    Args:
        name: Of the operator.
        forward: (query, key, value, bias, window, scale) -> output.
        backward: The gradient of the output, then the same -> gradients of query, key, value and
            bias, the last one empty without a bias.
        empty_like: Makes a map as the two return it: size, dtype, strides.
    """
    attention = torch.library.custom_op(f"pna::{name}", forward, mutates_args=())
    gradients = torch.library.custom_op(f"pna::{name}_backward", backward, mutates_args=())

    @attention.register_fake
    def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
        return empty_like(value)

    @gradients.register_fake
    def _(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grad_bias = query.new_empty(0) if bias is None else bias.new_empty(bias.shape)
        return empty_like(query), empty_like(key), empty_like(value), grad_bias

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        query, key, value, bias, ctx.window, ctx.scale = inputs
        ctx.save_for_backward(query, key, value, bias)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        *grads, grad_bias = gradients(grad, query, key, value, bias, ctx.window, ctx.scale)
        return (*grads, None if bias is None else grad_bias, None, None)

    attention.register_autograd(differentiate, setup_context=setup_context)
    return attention, gradients
