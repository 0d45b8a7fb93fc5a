"""The Triton kernels equal the reference: on a GPU where there is one, else in the interpreter.

Triton decides at import whether it interprets, so the interpreter runs these tests in a process of
its own, with tensors on the CPU.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from raypixel import kernels
from raypixel.kernels import reference

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
BOTH_WAYS = (False, True)  # which direction reads from right to left
# (N, h, H, W): single pixels, rows and columns, no image, sizes around 16, more than 32 columns.
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 1, 4),
    (2, 3, 4, 1),
    (3, 4, 3, 5),
    (0, 2, 3, 3),
    (1, 16, 2, 3),
    (2, 20, 3, 2),
    (1, 2, 2, 35),
]
GPU_SHAPES = [(64, 16, 28, 28), (33, 37, 7, 40), (17, 64, 9, 33)]
GENERAL = (3, 4, 3, 5)
RECURRENCES = pytest.mark.parametrize("recurrence", ["diagonal", "row"])


@pytest.fixture
def triton_kernels() -> ModuleType:
    """Import the kernels where they can run."""
    pytest.importorskip("triton", reason="triton is not installed")
    if not IS_INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no CUDA device; test_all_this_holds_in_the_interpreter runs this one")
    from raypixel.kernels import triton_kernels

    return triton_kernels


def draw(recurrence: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Return the same four arguments for every type and device."""
    num_images, size, height, width = shape
    num_directions, num_neighbours = (2, 2) if recurrence == "diagonal" else (1, 3)
    inputs = num_neighbours * size
    generator = torch.Generator().manual_seed(5)
    shapes = [
        (num_images, num_directions, 4 * size, height, width),
        (num_directions, 4 * size, inputs),
        (num_directions, size),
        (num_directions, size),
    ]
    values = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    values[1] *= inputs**-0.5
    return [value.to(device, dtype).requires_grad_() for value in values]


def call(module: ModuleType, recurrence: str, arguments: list[Tensor]) -> Tensor:
    flips = BOTH_WAYS if recurrence == "diagonal" else None
    if module is reference:
        return reference.hidden_states(*arguments, flips=flips)
    return kernels.differentiable(module, *arguments, flips=flips)


def values_and_gradients(module: ModuleType, recurrence: str, arguments: list[Tensor]):
    result = call(module, recurrence, arguments)
    generator = torch.Generator().manual_seed(6)
    gradient = torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result)
    return [result.detach(), *torch.autograd.grad(result, arguments, gradient)]


@pytest.mark.gpu
@RECURRENCES
@pytest.mark.parametrize("shape", SHAPES if IS_INTERPRETED else SHAPES + GPU_SHAPES, ids=str)
def test_values_and_all_gradients_equal_the_reference(triton_kernels, recurrence, shape):
    exact = draw(recurrence, shape, torch.float64, "cpu")
    wanted = values_and_gradients(reference, recurrence, exact)
    arguments = draw(recurrence, shape, torch.float32, DEVICE)
    found = values_and_gradients(triton_kernels, recurrence, arguments)
    for right, result in zip(wanted, found, strict=True):
        assert result.dtype == torch.float32
        scale = max(1.0, right.abs().max().item()) if right.numel() else 1.0
        torch.testing.assert_close(result.cpu().double(), right, rtol=0, atol=1e-5 * scale)


@pytest.mark.gpu
@pytest.mark.parametrize("is_flipped", BOTH_WAYS)
def test_one_direction_is_that_half_of_both(triton_kernels, is_flipped):
    arguments = draw("diagonal", GENERAL, torch.float32, DEVICE)
    both = call(triton_kernels, "diagonal", arguments)
    index = BOTH_WAYS.index(is_flipped)
    x, *others = arguments
    own = [x[:, index : index + 1], *(a[index : index + 1] for a in others)]
    one = kernels.differentiable(triton_kernels, *own, flips=(is_flipped,))
    assert torch.equal(one[:, 0], both[:, index])


@pytest.mark.gpu
@RECURRENCES
def test_strided_arguments_give_the_same_result(triton_kernels, recurrence):
    arguments = draw(recurrence, GENERAL, torch.float32, DEVICE)
    wanted = call(triton_kernels, recurrence, arguments)
    strided = [a.detach().mT.contiguous().mT.requires_grad_() for a in arguments]
    assert not all(a.is_contiguous() for a in strided)
    found = call(triton_kernels, recurrence, strided)
    assert torch.equal(found, wanted)
    assert found.is_contiguous()
    found.sum().backward()  # an expanded, stride-0 gradient
    for right, a in zip(torch.autograd.grad(wanted.sum(), arguments), strided, strict=True):
        assert torch.equal(a.grad, right)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # NumPy's
@RECURRENCES
def test_large_pre_activations_saturate(triton_kernels, recurrence):
    x, *others = draw(recurrence, GENERAL, torch.float32, DEVICE)
    for sign in (-1, 1):
        extreme = [torch.full_like(x, 200.0 * sign).requires_grad_(), *others]
        exact = [a.detach().cpu().double().requires_grad_() for a in extreme]
        wanted = values_and_gradients(reference, recurrence, exact)
        found = values_and_gradients(triton_kernels, recurrence, extreme)
        for right, result in zip(wanted, found, strict=True):
            torch.testing.assert_close(result.cpu().double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@RECURRENCES
def test_second_derivatives_are_refused(triton_kernels, recurrence):
    arguments = draw(recurrence, (1, 2, 2, 2), torch.float32, DEVICE)
    result = call(triton_kernels, recurrence, arguments).square().sum()
    (gradient,) = torch.autograd.grad(result, arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


IN_THE_INTERPRETER = (
    test_values_and_all_gradients_equal_the_reference,
    test_one_direction_is_that_half_of_both,
    test_strided_arguments_give_the_same_result,
    test_large_pre_activations_saturate,
    test_second_derivatives_are_refused,
)


@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreter's own process")
def test_all_this_holds_in_the_interpreter():
    triton = pytest.importorskip("triton", reason="triton is not installed")
    # The interpreter of Triton 3.5 makes integers of arrays of one element, which NumPy gives up.
    ignored = "ignore:Conversion of an array with ndim:DeprecationWarning"
    names = [f"{Path(__file__)}::{test.__name__}" for test in IN_THE_INTERPRETER]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "--noconftest", "-W", ignored, *names],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if "only 0-dimensional arrays can be converted" in process.stdout:
        versions = f"Triton {triton.__version__} with NumPy {np.__version__}"
        pytest.skip(f"the interpreter of {versions} cannot count loops")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "skipped" not in process.stdout


@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("size", [16, 32, 37])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@RECURRENCES
def test_kernels_compile_for_a_gpu_without_one(recurrence, direction, size, monkeypatch, tmp_path):
    """The interpreter takes programs that the compiler refuses."""
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from raypixel.kernels import triton_cells
    from raypixel.kernels.triton_kernels import _diagonal_options, _row_options

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(triton_cells, f"{recurrence}_{direction}")
    is_row = recurrence == "row"
    options = _row_options(size, chunk=16) if is_row else _diagonal_options(size)
    constants = {name: value for name, value in options.items() if name.isupper()}
    integers = dict.fromkeys(("num_directions", "height", "width"), "i32")
    types = integers | dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        kernel, {name: types.get(name, "*fp32") for name in kernel.arg_names}, constants
    )
    launch = {name: value for name, value in options.items() if not name.isupper()}
    assembly = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=launch).asm
    assert assembly["cubin"]
    assert "mma" not in assembly["ptx"]  # no tensor cores, which round to TF32
    assert "cp.async" not in assembly["ptx"]  # no pipelined loads
    assert "bar.sync" in assembly["ptx"]


@pytest.mark.gpu
def test_a_gpu_takes_these_kernels(triton_kernels):
    if IS_INTERPRETED:
        pytest.skip("the interpreter's tensors are on the CPU")
    arguments = draw("row", GENERAL, torch.float32, "cuda")
    x, weights, hidden, cell = arguments
    kernel = weights[0].unflatten(-1, (3, -1)).mT
    found = kernels.row_lstm(x[:, 0], kernel, initial_hidden=hidden[0], initial_cell=cell[0])
    assert torch.equal(found, call(triton_kernels, "row", arguments)[:, 0])


def test_triton_is_chosen_for_float32_on_a_gpu_up_to_64_channels_only(monkeypatch):
    choose = kernels.choose_implementation
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(kernels, "_has_module", lambda name: name == "triton")
    assert choose(gpu, torch.float32, 64) == "triton"
    assert choose(gpu, torch.float32, 65) == "fused"
    assert choose(gpu, torch.float64, 64) == "fused"
    assert choose(cpu, torch.float32, 64) == "fused"
    monkeypatch.setattr(kernels, "_has_module", lambda name: name != "triton")
    assert choose(gpu, torch.float32, 64) == "fused"
    assert choose(cpu, torch.float32, 64) == "raster"


def test_tensors_that_triton_cannot_take_are_named():
    x, weights, hidden, cell = draw("row", GENERAL, torch.float32, "cpu")
    kernel = weights[0].unflatten(-1, (3, -1)).mT
    with pytest.raises(AssertionError, match=r"'triton' does not take .*float32 on cpu"):
        kernels.row_lstm(
            x[:, 0],
            kernel,
            initial_hidden=hidden[0],
            initial_cell=cell[0],
            implementation="triton",
        )
    assert not kernels.can_run("triton", torch.device("cuda"), torch.float32, 65)
