"""The recurrences against a cell-by-cell loop, and the traps of the block around them."""

import pytest
import torch

from raypixel.nn.lstm import DiagonalRecurrence, LSTMBlock, RowRecurrence
from raypixel.nn.masked import causal_mask, color_groups
from raypixel.nn.stack import SideInputs


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double() * 0.5)
    return module


def cell(gates, c):
    o, f, i, g = gates.view(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def row_loop(gates, layer):
    size, height, width = layer.hidden_size, *gates.shape[-2:]
    zeros = torch.zeros(size).double()
    hidden, cells = {}, {}
    for i in range(height):
        for j in range(width):
            total = gates[:, i, j].clone()
            for tap, column in enumerate((j - 1, j, j + 1)):
                outside = layer.initial_hidden if i == 0 and 0 <= column < width else zeros
                total += layer.weight[:, :, tap] @ hidden.get((i - 1, column), outside)
            previous = cells.get((i - 1, j), layer.initial_cell)
            hidden[i, j], cells[i, j] = cell(total, previous)
    rows = [torch.stack([hidden[i, j] for j in range(width)], -1) for i in range(height)]
    return torch.stack(rows, -2)


def diagonal_loop(gates, layer, direction, *, step):
    """Loop over cells; step 1 runs left to right, -1 right to left."""
    height, width = gates.shape[-2:]
    columns = range(width) if step == 1 else range(width - 1, -1, -1)
    initial = layer.initial_hidden[direction]
    hidden, cells = {}, {}
    for i in range(height):
        for j in columns:
            total = (
                gates[:, i, j]
                + layer.weight_left[direction] @ hidden.get((i, j - step), initial)
                + layer.weight_up[direction] @ hidden.get((i - 1, j), initial)
            )
            previous = cells.get((i, j - step), layer.initial_cell[direction])
            hidden[i, j], cells[i, j] = cell(total, previous)
    rows = [torch.stack([hidden[i, j] for j in range(width)], -1) for i in range(height)]
    return torch.stack(rows, -2)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (5, 2), (1, 4), (3, 1)])
def test_row_recurrence_equals_a_loop_over_cells(height, width):
    layer = randomize(RowRecurrence(3))
    gates = torch.randn(2, 12, height, width, dtype=torch.float64)
    expected = torch.stack([row_loop(image, layer) for image in gates])
    assert torch.allclose(layer(gates), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (5, 2), (1, 4), (3, 1)])
def test_diagonal_recurrence_equals_loops_over_cells_with_the_second_moved_down(height, width):
    layer = randomize(DiagonalRecurrence(3, "both"))
    gates = torch.randn(2, 24, height, width, dtype=torch.float64)
    for n in range(2):
        expected = diagonal_loop(gates[n, :12], layer, 0, step=1)
        leftwards = diagonal_loop(gates[n, 12:], layer, 1, step=-1)
        for i in range(1, height):
            expected[:, i] += leftwards[:, i - 1]
        assert torch.allclose(layer(gates)[n], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 2)])
def test_one_direction_equals_a_loop_over_cells(height, width):
    layer = randomize(DiagonalRecurrence(3, "left_to_right"))
    gates = torch.randn(1, 12, height, width, dtype=torch.float64)
    expected = diagonal_loop(gates[0], layer, 0, step=1)
    assert torch.allclose(layer(gates)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [RowRecurrence, lambda size: DiagonalRecurrence(size, "both")])
def test_recurrence_keeps_its_precision_under_autocast(make):
    layer = make(4)
    gates = torch.randn(2, 16 * layer.num_directions, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(gates)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, layer(gates))


def block(recurrence, *, size=7, num_colors=3, **options):
    options = {"kernel_size": 1, "norm": "none", "use_residual": True, **options}
    wide, narrow = color_groups(2 * size, num_colors), color_groups(size, num_colors)
    return randomize(LSTMBlock(wide, narrow, recurrence=recurrence, **options))


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("direction", ["both", "left_to_right"])
def test_each_gate_is_split_by_color_on_its_own(direction, size):
    layer = block(DiagonalRecurrence(size, direction), size=size)
    expected = causal_mask(
        color_groups(size, 3), color_groups(2 * size, 3), kernel_size=(1, 1), mask_type="B"
    )
    for gate_mask in layer.input_to_state.mask.split(size):  # o, f, i, g of each direction
        assert torch.equal(gate_mask, expected)


def test_input_is_added_once_or_not_at_all():
    x = torch.randn(2, 14, 4, 3, dtype=torch.float64)
    for use_residual in (True, False):
        layer = block(RowRecurrence(7), kernel_size=3, use_residual=use_residual)
        with torch.no_grad():
            for parameter in layer.state_to_output.parameters():
                parameter.zero_()
        assert torch.equal(layer(x, SideInputs()), x if use_residual else torch.zeros_like(x))


def test_row_block_reads_its_own_pixel_and_the_left_one_only_in_its_row():
    layer = block(RowRecurrence(7), kernel_size=3, num_colors=1, use_residual=False)
    x = torch.randn(1, 14, 1, 6, dtype=torch.float64, requires_grad=True)
    layer(x, SideInputs())[0, :, 0, 3].sum().backward()
    assert x.grad.abs().sum((0, 1, 2)).ne(0).tolist() == [False, False, True, True, False, False]


def test_conditioning_maps_are_added_to_the_gates_of_both_directions():
    layer = block(DiagonalRecurrence(7, "both"), condition_channels=2)
    x = torch.randn(1, 14, 4, 3, dtype=torch.float64)
    condition = torch.randn(1, 2, 4, 3, dtype=torch.float64)
    weight = layer.condition_to_state.weight[:, :, 0, 0]  # (8h, 2), one 1x1 for all gates
    gates = layer.input_to_state(x) + torch.einsum("oc,nchw->nohw", weight, condition)
    expected = x + layer.state_to_output(layer.recurrence(gates))
    assert torch.allclose(layer(x, SideInputs(condition=condition)), expected, rtol=0, atol=1e-12)


def test_levels_reach_only_rows_below():
    layer = block(DiagonalRecurrence(7, "both"), level_channels=3)
    x = torch.randn(1, 14, 3, 4, dtype=torch.float64)
    levels = torch.randn(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    layer(x, SideInputs(levels))[0, :, 2, 1].sum().backward()
    seen = levels.grad.abs().sum((0, 1)).ne(0)
    expected = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    assert torch.equal(seen, expected)
