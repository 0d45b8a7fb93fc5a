"""The recurrences are what the paper's equations say, in every implementation."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raypixel.nn import kernels

IMPLEMENTATIONS = ("reference", "fused", "raster")
FAST = ("fused", "raster")
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
GENERAL = (3, 4, 3, 5)

Call = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def one_thread():
    """Keep small tensors off other threads, which wait long for their turn on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    return kernels.diagonal_bilstm(x, left, weight_up=up, **initial, implementation=implementation)


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
    for index, direction in enumerate(("left_to_right", "right_to_left")):
        one = kernels.diagonal_lstm(
            x[:, index],
            left[index],
            weight_up=up[index],
            initial_hidden=hidden[index],
            initial_cell=cell[index],
            direction=direction,
            implementation=implementation,
        )
        torch.testing.assert_close(one, both[:, index], rtol=0, atol=1e-6)


def values_and_gradients(
    make: Call, call: Call, shape: tuple[int, ...], dtype: torch.dtype, implementation: str
) -> list[Tensor]:
    arguments = make(shape, dtype)
    result = call(*arguments, implementation=implementation)
    generator = torch.Generator().manual_seed(6)
    gradient = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(dtype)
    return [result.detach(), *torch.autograd.grad(result, arguments, gradient)]


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
@pytest.mark.parametrize("implementation", FAST)
def test_nothing_is_recorded_where_no_gradient_is_wanted(make, call, implementation):
    arguments = make((17, 4, 3, 5), torch.float32)
    wanted = call(*arguments, implementation=implementation)
    with torch.no_grad():
        found = call(*arguments, implementation=implementation)
    assert not found.requires_grad
    assert torch.equal(found, wanted.detach())


@BOTH
@pytest.mark.parametrize("implementation", FAST)
def test_strided_arguments_give_the_same_result(make, call, implementation):
    arguments = make(GENERAL, torch.float32)
    wanted = call(*arguments, implementation=implementation)
    with torch.no_grad():
        strided = [a.mT.contiguous().mT if a.dim() > 1 else a for a in arguments]
        every_other = torch.stack([arguments[-1]] * 2, dim=-1)[..., 0]
        strided[-1] = every_other
        assert not all(a.is_contiguous() for a in strided)
    found = call(*[a.requires_grad_() for a in strided], implementation=implementation)
    assert torch.equal(found, wanted)
    found.sum(dim=(0, 2)).sum().backward()  # an expanded, stride-0 gradient


@BOTH
@pytest.mark.parametrize("implementation", FAST)
def test_autocast_computes_in_float32(make, call, implementation):
    arguments = make(GENERAL, torch.float32)
    wanted = call(arguments[0].bfloat16().float(), *arguments[1:], implementation=implementation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = arguments[0].bfloat16()
        found = call(half, *arguments[1:], implementation=implementation)
        (gradient,) = torch.autograd.grad(found.sum(), half)
    assert found.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("implementation", FAST)
def test_bfloat16_arguments_give_a_bfloat16_result(implementation):
    arguments = row_arguments(GENERAL, torch.bfloat16)
    found = call_row(*arguments, implementation=implementation)
    assert found.dtype == torch.bfloat16
    wanted = call_row(*[a.float() for a in arguments], implementation="reference")
    torch.testing.assert_close(found.float(), wanted, rtol=0, atol=1e-2)


@BOTH
@pytest.mark.parametrize("implementation", FAST)
def test_second_derivatives_are_refused(make, call, implementation):
    arguments = make(GENERAL, torch.float32)
    result = call(*arguments, implementation=implementation)
    (gradient,) = torch.autograd.grad(result.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@BOTH
def test_results_depend_neither_on_the_number_of_threads_nor_on_the_calling_thread(make, call):
    shape = (40, 6, 5, 9)
    results = []

    def run() -> None:
        results.append(values_and_gradients(make, call, shape, torch.float32, "raster"))

    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        run()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


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


def test_float32_on_the_cpu_takes_the_raster_kernels_and_the_rest_the_fused_ones(monkeypatch):
    choose = kernels.choose_implementation
    cpu = torch.device("cpu")
    assert choose(cpu, torch.float32) == "raster"
    assert choose(cpu, torch.float64) == "fused"
    assert choose(torch.device("meta"), torch.float32) == "fused"
    monkeypatch.setattr(kernels, "_has_module", lambda _: False)
    assert choose(cpu, torch.float32) == "fused"


def test_wrong_arguments_are_named():
    x, left, up, hidden, cell = diagonal_arguments(GENERAL, torch.float32)
    with pytest.raises(ValueError, match=r"input_to_state must have shape \(N, 2, 4h, H, W\)"):
        call_diagonal(x[:, :1], left, up, hidden, cell)
    with pytest.raises(ValueError, match=r"weight_up must have shape \(2, 16, 4\), got \(16, 4\)"):
        call_diagonal(x, left, up[0], hidden, cell)
    with pytest.raises(ValueError, match=r"implementation must be one of .*, got 'rastr'"):
        call_diagonal(x, left, up, hidden, cell, implementation="rastr")
    doubles = [a.double() for a in (x, left, up, hidden, cell)]
    with pytest.raises(ValueError, match=r"tensors must be float32 on the CPU.*float64"):
        call_diagonal(*doubles, implementation="raster")


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
