"""The recurrences of PixelRNN, each by the fastest implementation for its device, type and size.

Two functions, `diagonal_lstm` and `row_lstm`. The implementations behind them, all held to the first by tests, forward
and gradients:

    reference   plain PyTorch loop over diagonals or rows, gradients by autograd
    fused       plain PyTorch with a hand-written backward pass; any device, any floating type
    raster      Numba kernels in raster-scan order with images in vector lanes; CPU, float32
    triton      Triton kernels, a whole layer in one launch; GPU, float32, hidden size up to 64

None has a second derivative but the reference. Half-precision arguments, as under autocast, are
computed in float32. Under autocast the result is float32 as well.
"""

from __future__ import annotations

from functools import reduce
from importlib.util import find_spec
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raypixel.kernels import reference
from raypixel.kernels.reference import Flips, skew, unskew

__all__ = [
    "Implementation", "can_run", "choose_implementation", "diagonal_lstm", "differentiable", "row_lstm", "skew", "unskew",
]  # fmt: skip

Implementation = Literal["reference", "fused", "raster", "triton"]
_MAX_TRITON_SIZE = 64  # what fits on chip, see `triton_kernels`


class Kernel(Protocol):
    """An implementation with a hand-written backward pass: a module with these two functions.

    Tensors have the shapes of `_run`, D directions; `flips` are the directions that read rows from right to left, and
    None for a Row LSTM. What `forward` returns beside the hidden states, if it keeps anything, `backward` is given.
    """

    def forward(
        self, input_to_state: Tensor, weights: Tensor, initial_hidden: Tensor, initial_cell: Tensor,
        *, flips: Flips, keeps: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
        """Return the hidden states, (N, D, h, H, W), and what the backward pass needs."""
        ...

    def backward(
        self, hidden_gradient: Tensor, kept: tuple[Tensor, ...], *, flips: Flips
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of the four tensors."""
        ...


def diagonal_lstm(
    input_to_state: Tensor,
    weight_left: Tensor,
    *,
    weight_up: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    implementation: Implementation | None = None,
) -> Tensor:
    """Return the hidden states of a Diagonal LSTM in one direction, or of a BiLSTM's two side by side.

    With gates = input_to_state[i, j] + weight_left h[i, j-1] + weight_up h[i-1, j], split into
    output, forget, input and content (o, f, i, g):

        c[i, j] = sigmoid(f) * c[i, j-1] + sigmoid(i) * tanh(g)
        h[i, j] = sigmoid(o) * tanh(c[i, j])

    Neighbours outside the image have the initial state. The first of D directions reads from left to right, the second from
    right to left: there j-1 is j+1. Neither is shifted: a causal layer moves the second's map down by one row and adds it.

    Args:
        input_to_state: Pre-activations with biases, each direction in the image's own orientation, (N, D, 4h, H, W).
        weight_left: Weights of the neighbour before, in the same row, (D, 4h, h).
        weight_up: Weights of the neighbour above, (D, 4h, h).
        initial_hidden: (D, h).
        initial_cell: (D, h).
        implementation: None chooses one.

    Returns:
        Hidden states, (N, D, h, H, W).

    Reference: van den Oord et al. 2016a, sec. 3.2.
    """
    weights = torch.cat([weight_left, weight_up], dim=-1)  # (D, 4h, 2h)
    tensors = (input_to_state, weights, initial_hidden, initial_cell)
    return _run(*tensors, flips=(False, True)[: len(weights)], implementation=implementation)


def row_lstm(
    input_to_state: Tensor,
    weight: Tensor,
    *,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    implementation: Implementation | None = None,
) -> Tensor:
    """Return the hidden states of a Row LSTM.

    The gates of row i are input_to_state[i] plus a one-dimensional convolution of the hidden row
    above, with zeros left and right of it; the cell state is that of the pixel above. The row above
    the image has the initial state in every column.

    Args:
        input_to_state: Pre-activations with biases, (N, 4h, H, W).
        weight: Weights of the neighbours above left, above, and above right, (4h, h, 3).
        initial_hidden: (h,).
        initial_cell: (h,).
        implementation: None chooses one.

    Returns:
        Hidden states, (N, h, H, W).

    Reference: van den Oord et al. 2016a, sec. 3.1.
    """
    weights = weight.permute(0, 2, 1).flatten(1)[None]  # (1, 4h, 3h)
    tensors = (input_to_state[:, None], weights, initial_hidden[None], initial_cell[None])
    return _run(*tensors, flips=None, implementation=implementation)[:, 0]


def can_run(
    implementation: Implementation, device: torch.device, dtype: torch.dtype, hidden_size: int
) -> bool:
    """Whether an implementation takes tensors of this kind here."""
    if implementation == "raster":
        return (device.type, dtype) == ("cpu", torch.float32) and _has_module("numba")
    if implementation == "triton":
        is_fit = (device.type, dtype) == ("cuda", torch.float32) and hidden_size <= _MAX_TRITON_SIZE
        return is_fit and _has_module("triton")
    return True


def choose_implementation(
    device: torch.device, dtype: torch.dtype, hidden_size: int
) -> Implementation:
    """Return the fastest implementation for a device, a floating type and a size."""
    fastest_first: tuple[Implementation, ...] = ("raster", "triton", "fused")
    return next(name for name in fastest_first if can_run(name, device, dtype, hidden_size))


def _run(
    input_to_state: Tensor,
    weights: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    *,
    flips: Flips,
    implementation: Implementation | None,
) -> Tensor:
    """Run a recurrence in its computing type.

    Args:
        input_to_state: Pre-activations, (N, D, 4h, H, W).
        weights: State-to-state weights, those of each neighbour in turn, (D, 4h, 2h) or (D, 4h, 3h).
        initial_hidden: (D, h).
        initial_cell: (D, h).
        flips: Which directions read rows from right to left; None for a Row LSTM.
        implementation: None chooses one.
    """
    # kernels compute addresses from these shapes, so they are checked here, once
    shape = tuple(input_to_state.shape)
    is_right = len(shape) == 5 and shape[2] % 4 == 0 and 0 not in shape[2:]
    assert is_right, f"input_to_state must be (N, D, 4h, H, W), got {shape}"
    num_directions, size = shape[1], shape[2] // 4
    wanted = (num_directions, 4 * size, size * (3 if flips is None else 2))
    assert tuple(weights.shape) == wanted, f"weights must be {wanted}, got {tuple(weights.shape)}"
    states = (num_directions, size)
    assert initial_hidden.shape == initial_cell.shape == states, f"initial states must be {states}"

    tensors = (input_to_state, weights, initial_hidden, initial_cell)
    result_type = reduce(torch.promote_types, [tensor.dtype for tensor in tensors])
    dtype, device = torch.promote_types(result_type, torch.float32), input_to_state.device
    name = implementation or choose_implementation(device, dtype, size)
    assert name in get_args(Implementation), f"no implementation is named {name!r}"
    assert can_run(name, device, dtype, size), (
        f"{name!r} does not take hidden size {size}, {dtype} on {device}"
    )
    with torch.autocast(device.type, enabled=False):
        converted = [tensor.to(dtype) for tensor in tensors]
        if name == "reference":
            hidden = reference.hidden_states(*converted, flips=flips)
        else:
            hidden = differentiable(_kernel(name), *converted, flips=flips)
    return hidden.to(result_type)


def _kernel(implementation: Implementation) -> Kernel:
    """Import an implementation, whose library may be missing elsewhere."""
    if implementation == "raster":
        from raypixel.kernels import raster

        return raster
    if implementation == "triton":
        from raypixel.kernels import triton_kernels

        return triton_kernels
    from raypixel.kernels import fused

    return fused


def differentiable(
    kernel: Kernel,
    input_to_state: Tensor,
    weights: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    *,
    flips: Flips,
) -> Tensor:
    """Run a kernel, whose backward pass autograd then calls; it keeps nothing where none can follow."""
    tensors = (input_to_state, weights, initial_hidden, initial_cell)
    keeps = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    hidden: Tensor = _HandWritten.apply(kernel, flips, keeps, *tensors)
    return hidden


class _HandWritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, flips: Flips, keeps: bool, *tensors: Tensor) -> Tensor:  # noqa: FBT001
        hidden, kept = kernel.forward(*tensors, flips=flips, keeps=keeps)
        ctx.save_for_backward(*kept)
        ctx.kernel, ctx.flips = kernel, flips
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, hidden_gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden_gradient.device.type, enabled=False):
            gradients = ctx.kernel.backward(hidden_gradient, ctx.saved_tensors, flips=ctx.flips)
        return None, None, None, *gradients


def _has_module(name: str) -> bool:
    return find_spec(name) is not None
