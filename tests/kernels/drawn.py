"""Drawn arguments of the recurrences, and calls of both with the same arguments in the same order."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raypixel import kernels

IMPLEMENTATIONS = ("reference", "fused", "raster")
FAST = ("fused", "raster")
GENERAL = (3, 4, 3, 5)

Call = Callable[..., Tensor]


def diagonal_arguments(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    num_images, size, height, width = shape
    draw = Draw(dtype, scale=(2 * size) ** -0.5)
    weights = [draw(2, 4 * size, size, is_weight=True) for _ in range(2)]
    return [draw(num_images, 2, 4 * size, height, width), *weights, draw(2, size), draw(2, size)]


def row_arguments(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    num_images, size, height, width = shape
    draw = Draw(dtype, scale=(3 * size) ** -0.5)
    weight = draw(4 * size, size, 3, is_weight=True)
    return [draw(num_images, 4 * size, height, width), weight, draw(size), draw(size)]


class Draw:
    """Draws the same numbers for every dtype."""

    def __init__(self, dtype: torch.dtype, *, scale: float) -> None:
        self.dtype, self.scale = dtype, scale
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, *shape: int, is_weight: bool = False) -> Tensor:
        values = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return (values * (self.scale if is_weight else 1.0)).to(self.dtype).requires_grad_()


def call_diagonal(*arguments: Tensor, implementation: str | None = None) -> Tensor:
    x, left, up, hidden, cell = arguments
    initial = {"initial_hidden": hidden, "initial_cell": cell}
    return kernels.diagonal_lstm(x, left, weight_up=up, **initial, implementation=implementation)


def call_row(*arguments: Tensor, implementation: str | None = None) -> Tensor:
    x, weight, hidden, cell = arguments
    return kernels.row_lstm(
        x, weight, initial_hidden=hidden, initial_cell=cell, implementation=implementation
    )


BOTH = pytest.mark.parametrize(
    ("make", "call"),
    [(diagonal_arguments, call_diagonal), (row_arguments, call_row)],
    ids=["diagonal", "row"],
)


def values_and_gradients(
    make: Call, call: Call, shape: tuple[int, ...], dtype: torch.dtype, implementation: str
) -> list[Tensor]:
    arguments = make(shape, dtype)
    result = call(*arguments, implementation=implementation)
    generator = torch.Generator().manual_seed(6)
    gradient = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(dtype)
    return [result.detach(), *torch.autograd.grad(result, arguments, gradient)]
