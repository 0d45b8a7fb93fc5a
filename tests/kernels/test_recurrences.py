"""The recurrences are what the paper's equations say, in every implementation."""

import pytest
import torch
from torch import Tensor, nn

from raypixel import kernels
from tests.kernels.drawn import (
    BOTH,
    FAST,
    GENERAL,
    IMPLEMENTATIONS,
    call_diagonal,
    call_row,
    diagonal_arguments,
    row_arguments,
    values_and_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")
# (N, h, H, W): single pixels, rows and columns, widths and batches around 16 lanes, odd sizes.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 1, 4),
    (2, 3, 4, 1),
    (3, 4, 3, 5),
    (17, 5, 5, 2),
    (16, 16, 3, 16),
    (33, 20, 7, 17),
    (2, 37, 4, 18),
    (0, 2, 3, 3),
]


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    o, f, i, g = gates.chunk(4, dim=-1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def diagonal_by_cells(x: Tensor, left: Tensor, up: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """Visit the cells of one image after another, from left to right."""
    _, _, height, width = x.shape
    output = torch.zeros(x.shape[0], len(hidden), height, width, dtype=x.dtype)
    for n in range(x.shape[0]):
        states: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for i in range(height):
            for j in range(width):
                before = states.get((i, j - 1), (hidden, cell))
                above = states.get((i - 1, j), (hidden, cell))
                gates = x[n, :, i, j] + left @ before[0] + up @ above[0]
                states[i, j] = lstm_cell(gates, before[1])
                output[n, :, i, j] = states[i, j][0]
    return output


def row_by_cells(x: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """Visit the cells of one image after another; beyond the edges the row above is zero."""
    _, _, height, width = x.shape
    output = torch.zeros(x.shape[0], len(hidden), height, width, dtype=x.dtype)
    for n in range(x.shape[0]):
        states = {(-1, j): (hidden, cell) for j in range(width)}
        zeros = (torch.zeros_like(hidden), torch.zeros_like(cell))
        for i in range(height):
            for j in range(width):
                gates = x[n, :, i, j]
                for k in range(3):
                    gates = gates + weight[:, :, k] @ states.get((i - 1, j + k - 1), zeros)[0]
                states[i, j] = lstm_cell(gates, states[i - 1, j][1])
                output[n, :, i, j] = states[i, j][0]
    return output


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 5, 3), (1, 2, 1, 3), (1, 2, 3, 1)])
def test_reference_is_the_diagonal_recurrence_cell_by_cell(shape):
    with torch.no_grad():
        x, left, up, hidden, cell = diagonal_arguments(shape, torch.float64)
        result = call_diagonal(x, left, up, hidden, cell, implementation="reference")
        forth = diagonal_by_cells(x[:, 0], left[0], up[0], hidden[0], cell[0])
        back = diagonal_by_cells(x[:, 1].flip(-1), left[1], up[1], hidden[1], cell[1]).flip(-1)
    torch.testing.assert_close(result, torch.stack([forth, back], dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 3), (1, 2, 3, 1)])
def test_reference_is_the_row_recurrence_cell_by_cell(shape):
    with torch.no_grad():
        arguments = row_arguments(shape, torch.float64)
        result = call_row(*arguments, implementation="reference")
        torch.testing.assert_close(result, row_by_cells(*arguments), rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_one_direction_is_that_half_of_both(implementation):
    x, left, up, hidden, cell = diagonal_arguments(GENERAL, torch.float32)
    both = call_diagonal(x, left, up, hidden, cell, implementation=implementation)
    for index, is_flipped in enumerate((False, True)):
        one = kernels.diagonal_lstm(
            x[:, index : index + 1].flip(-1) if is_flipped else x[:, index : index + 1],
            left[index : index + 1],
            weight_up=up[index : index + 1],
            initial_hidden=hidden[index : index + 1],
            initial_cell=cell[index : index + 1],
            implementation=implementation,
        )
        half = both[:, index : index + 1].flip(-1) if is_flipped else both[:, index : index + 1]
        torch.testing.assert_close(one, half, rtol=0, atol=1e-6)


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("implementation", "dtype", "tolerance"),
    [
        ("fused", torch.float64, 1e-12),
        ("fused", torch.float32, 1e-5),
        ("raster", torch.float32, 1e-5),
    ],
)
def test_values_and_all_gradients_equal_the_reference(
    make, call, shape, implementation, dtype, tolerance
):
    wanted = values_and_gradients(make, call, shape, torch.float64, "reference")
    found = values_and_gradients(make, call, shape, dtype, implementation)
    for right, result in zip(wanted, found, strict=True):
        assert result.dtype == dtype
        assert result.shape == right.shape
        scale = max(1.0, right.abs().max().item()) if right.numel() else 1.0
        torch.testing.assert_close(result.double(), right, rtol=0, atol=tolerance * scale)


@BOTH
@pytest.mark.parametrize("implementation", ["reference", "fused"])
def test_gradients_equal_finite_differences(make, call, implementation):
    arguments = make((1, 2, 3, 2), torch.float64)
    torch.autograd.gradcheck(lambda *a: call(*a, implementation=implementation), arguments)


@BOTH
def test_an_image_does_not_depend_on_the_others_in_its_batch(make, call):
    arguments = make((19, 4, 3, 5), torch.float32)
    whole = call(*arguments, implementation="raster")
    some = call(arguments[0][3:5], *arguments[1:], implementation="raster")
    assert torch.equal(some, whole[3:5])


@pytest.mark.parametrize("implementation", FAST)
def test_a_later_pixel_never_changes_an_earlier_state(implementation):
    x, *others = diagonal_arguments((1, 4, 4, 5), torch.float32)
    result = call_diagonal(x, *others, implementation=implementation)
    (gradient,) = torch.autograd.grad(result[0, 0, :, 2, 2].sum(), x)
    row, column = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    is_seen = (row <= 2) & (column <= 2)
    assert torch.equal(gradient[0, 0].abs().sum(0) > 0, is_seen)
    assert not gradient[0, 1].any()


def test_unskew_undoes_skew_and_diagonals_become_columns():
    for height, width in [(3, 5), (5, 3), (1, 4), (4, 1)]:
        x = torch.arange(1.0, 1 + 2 * height * width).reshape(1, 2, height, width)
        skewed = kernels.skew(x)
        assert skewed.shape == (1, 2, height, width + height - 1)
        assert torch.equal(kernels.unskew(skewed), x)
        for i in range(height):
            assert torch.equal(skewed[:, :, i, i : i + width], x[:, :, i])
        assert skewed.count_nonzero() == x.numel()


def test_a_layer_learns_through_the_kernels():
    """A right-to-left copy task, which only the carried cell state can solve."""
    torch.manual_seed(0)
    x = torch.randint(0, 2, (16, 1, 2, 8)).float()
    wanted = x[:, 0, :, 7:]  # the last column, at every column of its row
    make_gates, read = nn.Conv2d(1, 2 * 4 * 8, 1), nn.Conv2d(8, 1, 1)
    weights = [nn.Parameter(torch.randn(2, 32, 8) * 0.2) for _ in range(2)]
    initial = [nn.Parameter(torch.zeros(2, 8)) for _ in range(2)]
    parameters = [*make_gates.parameters(), *read.parameters(), *weights, *initial]
    optimizer = torch.optim.Adam(parameters, lr=0.03)
    for _ in range(150):
        states = call_diagonal(make_gates(x).unflatten(1, (2, -1)), *weights, *initial)
        logits = read(states[:, 1])[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted.expand_as(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
