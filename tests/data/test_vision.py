import subprocess
import sys

import torch

from raypixel.data.vision import torchvision


def test_submodules_work_beside_this_torch():
    grid = torchvision("utils").make_grid(torch.zeros(4, 3, 8, 8), nrow=2, padding=1)
    assert grid.shape == (3, 19, 19)
    assert torchvision("datasets").MNIST.__name__ == "MNIST"
    assert torchvision() is sys.modules["torchvision"]


def test_importing_the_data_package_loads_none_of_the_heavy_libraries():
    heavy = ["torch", "torchvision", "sklearn", "PIL", "pyarrow", "ray", "mlflow", "matplotlib"]
    code = f"import sys, raypixel.data; print([n for n in {heavy!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
