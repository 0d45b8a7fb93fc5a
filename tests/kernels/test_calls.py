"""How the recurrences may be called: strides, types, threads, without gradients, and wrongly."""

import threading

import pytest
import torch

from raypixel import kernels
from tests.kernels.drawn import (
    BOTH,
    FAST,
    GENERAL,
    call_diagonal,
    call_row,
    diagonal_arguments,
    row_arguments,
    values_and_gradients,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_float32_on_the_cpu_takes_the_raster_kernels_and_the_rest_the_fused_ones(monkeypatch):
    choose = kernels.choose_implementation
    cpu = torch.device("cpu")
    assert choose(cpu, torch.float32, 16) == "raster"
    assert choose(cpu, torch.float64, 16) == "fused"
    assert choose(torch.device("meta"), torch.float32, 16) == "fused"
    monkeypatch.setattr(kernels, "_has_module", lambda _: False)
    assert choose(cpu, torch.float32, 16) == "fused"


def test_wrong_arguments_are_named():
    x, left, up, hidden, cell = diagonal_arguments(GENERAL, torch.float32)
    with pytest.raises(AssertionError, match=r"input_to_state must be \(N, D, 4h, H, W\), got"):
        call_diagonal(x[:, :, :15], left, up, hidden, cell)
    with pytest.raises(AssertionError, match=r"weights must be \(1, 16, 8\), got \(2, 16, 8\)"):
        call_diagonal(x[:, :1], left, up, hidden, cell)
    with pytest.raises(AssertionError, match=r"weights must be \(2, 16, 8\), got \(2, 16, 7\)"):
        call_diagonal(x, left, up[..., :3], hidden, cell)
    with pytest.raises(AssertionError, match=r"initial states must be \(2, 4\)"):
        call_diagonal(x, left, up, hidden[:1], cell)
    with pytest.raises(AssertionError, match=r"no implementation is named 'rastr'"):
        call_diagonal(x, left, up, hidden, cell, implementation="rastr")
    doubles = [a.double() for a in (x, left, up, hidden, cell)]
    with pytest.raises(AssertionError, match=r"'raster' does not take .*float64 on cpu"):
        call_diagonal(*doubles, implementation="raster")
