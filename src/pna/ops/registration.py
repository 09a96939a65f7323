"""Turn a pair of functions into a custom operator that autograd and `torch.compile` support."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Forward = Callable[[Tensor, Tensor, Tensor, Tensor | None, int, int, float], Tensor]
Backward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor | None, int, int, float],
    tuple[Tensor, Tensor, Tensor, Tensor],
]


EmptyLike = Callable[[Tensor, Sequence[int]], Tensor]


def register(
    name: str, forward: Forward, backward: Backward, empty_like: EmptyLike
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Register `pna::NAME` and `pna::NAME_backward`.

    Args:
        name: Of the operator.
        forward: (query, key, value, bias, window, dilation, scale) -> output.
        backward: The gradient of the output, then the same -> gradients of query, key, value and
            bias, the last one empty without a bias.
        empty_like: Makes a map (B, heads, H, W, d) of a tensor's dtype and device and of the given
            size, with the strides of those that the two return.
    """
    attention = torch.library.custom_op(f"pna::{name}", forward, mutates_args=())
    gradients = torch.library.custom_op(f"pna::{name}_backward", backward, mutates_args=())

    @attention.register_fake
    def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
        return empty_like(value, (*query.shape[:-1], value.shape[-1]))

    @gradients.register_fake
    def _(
        grad: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *_: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grad_bias = query.new_empty(0) if bias is None else bias.new_empty(bias.shape)
        a, b, c = (empty_like(x, x.shape) for x in (query, key, value))
        return a, b, c, grad_bias

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        query, key, value, bias, *ctx.options = inputs
        ctx.save_for_backward(query, key, value, bias)

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        *grads, grad_bias = gradients(grad, query, key, value, bias, *ctx.options)
        return (*grads, None if bias is None else grad_bias, None, None, None)

    attention.register_autograd(differentiate, setup_context=setup_context)
    return attention, gradients
