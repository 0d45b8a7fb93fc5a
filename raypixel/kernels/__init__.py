"""The recurrences of PixelRNN, each by the fastest implementation for its device, type and size.

Three functions, `diagonal_lstm`, `diagonal_bilstm` and `row_lstm`. The implementations behind them,
all held to the first by tests, forward and gradients:

    reference   plain PyTorch loop over diagonals or rows, gradients by autograd
    fused       plain PyTorch with a hand-written backward pass; any device, any floating type
    raster      Numba kernels in raster-scan order with images in vector lanes; CPU, float32
    triton      Triton kernels, a whole layer in one launch; GPU, float32, hidden size up to 64

None has a second derivative but the reference. Half-precision arguments, as under autocast, are
computed in float32. Under autocast the result is float32 as well.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from raypixel.kernels.reference import Direction, skew, unskew

__all__ = [
    "Direction",
    "Implementation",
    "choose_implementation",
    "diagonal_bilstm",
    "diagonal_lstm",
    "row_lstm",
    "skew",
    "unskew",
]

Implementation = Literal["reference", "fused", "raster", "triton"]
_MAX_TRITON_SIZE = 64  # what fits on chip, see `triton_kernels`


def diagonal_lstm(
    input_to_state: Tensor,
    weight_left: Tensor,
    *,
    weight_up: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    direction: Direction = "left_to_right",
    implementation: Implementation | None = None,
) -> Tensor:
    """Return the hidden states of a one-directional Diagonal LSTM.

    With gates = input_to_state[i, j] + weight_left h[i, j-1] + weight_up h[i-1, j], split into
    output, forget, input and content (o, f, i, g):

        c[i, j] = sigmoid(f) * c[i, j-1] + sigmoid(i) * tanh(g)
        h[i, j] = sigmoid(o) * tanh(c[i, j])

    Neighbours outside the image have the initial state. From right to left, j-1 is j+1.

    Args:
        input_to_state: Pre-activations with biases, (N, 4h, H, W).
        weight_left: Weights of the neighbour before, in the same row, (4h, h).
        weight_up: Weights of the neighbour above, (4h, h).
        initial_hidden: (h,).
        initial_cell: (h,).
        direction: In which direction rows are read.
        implementation: None chooses one.

    Returns:
        Hidden states, (N, h, H, W).

    Raises:
        ValueError: Shapes disagree, or the implementation is unknown or cannot take these tensors.

    Reference: van den Oord et al. 2016a, sec. 3.2.
    """
    size = _hidden_size(input_to_state, ("N", "4h", "H", "W"))
    _check_shapes(
        weight_left=(weight_left, (4 * size, size)),
        weight_up=(weight_up, (4 * size, size)),
        initial_hidden=(initial_hidden, (size,)),
        initial_cell=(initial_cell, (size,)),
    )
    hidden = _run(
        "diagonal",
        input_to_state[:, None],
        torch.cat([weight_left, weight_up], dim=-1)[None],
        (initial_hidden[None], initial_cell[None]),
        implementation=implementation,
        directions=(direction,),
    )
    return hidden[:, 0]


def diagonal_bilstm(
    input_to_state: Tensor,
    weight_left: Tensor,
    *,
    weight_up: Tensor,
    initial_hidden: Tensor,
    initial_cell: Tensor,
    implementation: Implementation | None = None,
) -> Tensor:
    """Return the hidden states of both directions of a Diagonal BiLSTM, computed side by side.

    Neither is shifted: a causal layer moves the right-to-left map down by one row and adds it.

    Args:
        input_to_state: Pre-activations with biases, left-to-right then right-to-left, each in the
            image's own orientation, (N, 2, 4h, H, W).
        weight_left: Weights of the neighbour before, in the same row, (2, 4h, h).
        weight_up: Weights of the neighbour above, (2, 4h, h).
        initial_hidden: (2, h).
        initial_cell: (2, h).
        implementation: None chooses one.

    Returns:
        Hidden states, (N, 2, h, H, W).

    Raises:
        ValueError: Shapes disagree, or the implementation is unknown or cannot take these tensors.

    Reference: van den Oord et al. 2016a, sec. 3.2.
    """
    size = _hidden_size(input_to_state, ("N", "2", "4h", "H", "W"))
    _check_shapes(
        weight_left=(weight_left, (2, 4 * size, size)),
        weight_up=(weight_up, (2, 4 * size, size)),
        initial_hidden=(initial_hidden, (2, size)),
        initial_cell=(initial_cell, (2, size)),
    )
    return _run(
        "diagonal",
        input_to_state,
        torch.cat([weight_left, weight_up], dim=-1),
        (initial_hidden, initial_cell),
        implementation=implementation,
        directions=("left_to_right", "right_to_left"),
    )


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

    Raises:
        ValueError: Shapes disagree, or the implementation is unknown or cannot take these tensors.

    Reference: van den Oord et al. 2016a, sec. 3.1.
    """
    size = _hidden_size(input_to_state, ("N", "4h", "H", "W"))
    _check_shapes(
        weight=(weight, (4 * size, size, 3)),
        initial_hidden=(initial_hidden, (size,)),
        initial_cell=(initial_cell, (size,)),
    )
    hidden = _run(
        "row",
        input_to_state[:, None],
        weight.permute(0, 2, 1).flatten(1)[None],
        (initial_hidden[None], initial_cell[None]),
        implementation=implementation,
    )
    return hidden[:, 0]


def choose_implementation(
    device: torch.device, dtype: torch.dtype, *, hidden_size: int | None = None
) -> Implementation:
    """Return the name of the fastest implementation for a device, a floating type and a size.

    Args:
        device: Where the tensors are.
        dtype: In which type they are computed.
        hidden_size: None chooses one that takes every size.
    """
    if device.type == "cpu" and dtype == torch.float32 and _has_module("numba"):
        return "raster"
    is_small = hidden_size is not None and hidden_size <= _MAX_TRITON_SIZE
    if device.type == "cuda" and dtype == torch.float32 and is_small and _has_module("triton"):
        return "triton"
    return "fused"


def _run(
    recurrence: str,
    input_to_state: Tensor,
    weights: Tensor,
    initial: tuple[Tensor, Tensor],
    *,
    implementation: Implementation | None,
    **options: tuple[Direction, ...],
) -> Tensor:
    """Run a recurrence, with the leading dimension D everywhere, in its computing type."""
    arguments = (input_to_state, weights, *initial)
    result_type = arguments[0].dtype
    for argument in arguments[1:]:
        result_type = torch.promote_types(result_type, argument.dtype)
    dtype = torch.promote_types(result_type, torch.float32)
    device = input_to_state.device
    size = input_to_state.shape[-3] // 4
    name = implementation or choose_implementation(device, dtype, hidden_size=size)
    _check_implementation(name, device, dtype, size)
    module_name = "triton_kernels" if name == "triton" else name
    module = import_module(f"raypixel.kernels.{module_name}")
    with torch.autocast(device.type, enabled=False):
        x, weights, initial_hidden, initial_cell = (argument.to(dtype) for argument in arguments)
        hidden: Tensor = getattr(module, recurrence)(
            x, weights, initial_hidden=initial_hidden, initial_cell=initial_cell, **options
        )
    return hidden.to(result_type)


def _hidden_size(input_to_state: Tensor, names: tuple[str, ...]) -> int:
    """Return h; the shape must have these dimensions, "4h" among them, with at least one pixel."""
    shape = tuple(input_to_state.shape)
    is_right = len(shape) == len(names) and all(
        name != "2" or length == 2 for name, length in zip(names, shape, strict=True)
    )
    if not is_right or shape[-3] % 4 or 0 in shape[-3:]:
        wanted = ", ".join(names)
        raise ValueError(f"input_to_state must have shape ({wanted}), got {shape}")
    return shape[-3] // 4


def _check_shapes(**expected: tuple[Tensor, tuple[int, ...]]) -> None:
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def _check_implementation(
    name: str, device: torch.device, dtype: torch.dtype, hidden_size: int
) -> None:
    if name not in get_args(Implementation):
        known = ", ".join(get_args(Implementation))
        raise ValueError(f"implementation must be one of {known}, got {name!r}")
    if name == "raster" and (device.type, dtype) != ("cpu", torch.float32):
        raise ValueError(
            f"tensors must be float32 on the CPU for 'raster', got {dtype} on {device}"
        )
    if name == "triton" and (device.type, dtype) != ("cuda", torch.float32):
        raise ValueError(f"tensors must be float32 on a GPU for 'triton', got {dtype} on {device}")
    if name == "triton" and hidden_size > _MAX_TRITON_SIZE:
        raise ValueError(
            f"hidden size must be at most {_MAX_TRITON_SIZE} for 'triton', got {hidden_size}"
        )


def _has_module(name: str) -> bool:
    return find_spec(name) is not None
