"""The floors and rooms of pyproject.toml: the package keeps them, and what breaks them is found."""

import ast
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import raypixel

PACKAGE = Path(raypixel.__file__).parent

# modules that may import by a name that their text does not show, and why
COMPUTED_IMPORTS = {
    "__init__.py": "opens the module of a name on first use, so that `import raypixel` stays fast",
    "models/__init__.py": "imports every file of its own folder, which registers the models",
    "data/vision.py": "opens torchvision, its own, with warnings silenced",
}


def lint(root: Path) -> subprocess.CompletedProcess:
    """Run the contracts over root/raypixel."""
    program = f"import sys; sys.path.insert(0, {str(root)!r}); import importlinter.cli as c; c.lint_imports_command()"
    options = [str(PACKAGE.parent / "pyproject.toml"), "--no-cache", "--no-logo"]
    command = [sys.executable, "-P", "-c", program, *options]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_package_keeps_its_contracts():
    result = lint(PACKAGE.parent)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        (
            "evaluation.py",
            "def f():\n    from raypixel import training",
            "raypixel.evaluation is not allowed to import raypixel.training",
        ),
        (
            "models/row_lstm.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import raypixel.data.loader",
            "raypixel.models is not allowed to import raypixel.data",
        ),
        (
            "data/manifest.py",
            "from ..checkpoint import load_checkpoint",
            "raypixel.data is not allowed to import raypixel.checkpoint",
        ),
        ("helpers.py", "", "not listed as layers:\n\n- raypixel.helpers"),
        ("nn/norm.py", "from raypixel.nn import lstm", "- .norm -> .lstm (1 import)"),
        ("training.py", "from ray import train", "raypixel.training -> ray"),
        ("serving/engine.py", "import ray.train as t", "raypixel.serving.engine -> ray"),
        ("training.py", "import mlflow.pytorch", "raypixel.training -> mlflow"),
        ("data/levels.py", "from torchvision import io", "raypixel.data.levels -> torchvision"),
        ("config.py", "import click", "raypixel.config -> click"),
        ("evaluation.py", "import matplotlib", "raypixel.evaluation -> matplotlib"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, text, problem):
    shutil.copytree(PACKAGE, tmp_path / "raypixel", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "raypixel" / file).open("a") as source:
        source.write(f"\n{text}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert problem in result.stdout


def test_no_module_imports_itself_through_others():
    # the contract compares the files of one folder; a folder and what lies in it are compared here
    graph = grimp.build_graph("raypixel", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    order = tuple(TopologicalSorter(imports).static_order())  # a CycleError names the way round
    assert set(order) == graph.modules


def test_only_modules_with_a_reason_import_what_their_text_does_not_name():
    def computes(path: Path) -> bool:
        calls = (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        )
        return any(
            ast.unparse(call.func).split(".")[-1] in ("import_module", "__import__")
            for call in calls
        )

    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if computes(path)}
    assert found == set(COMPUTED_IMPORTS)
