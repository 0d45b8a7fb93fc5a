"""The walls between raypixel's floors, over the syntax tree of every module: nothing is imported to test it.

A floor is the height of a top-level unit, `raypixel/X.py` or `raypixel/X/`. Imports inside functions and under
`TYPE_CHECKING` count like any other.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import raypixel

PACKAGE = Path(raypixel.__file__).parent

FLOORS = {
    "": 0,  # raypixel/__init__.py
    "errors": 0,
    "kernels": 0,
    "recipes": 0,
    "units": 0,
    "client": 1,
    "config": 1,
    "nn": 1,
    "storage": 1,
    "models": 2,
    "checkpoint": 3,
    "data": 3,
    "diagrams": 4,
    "evaluation": 4,
    "figures": 4,
    "optimization": 4,
    "sampling": 4,
    "training": 5,
    "experiment": 6,
    "sweeps": 6.5,
    "jobs": 8,
    "reporting": 8.5,
    "serving": 8.5,
    "cluster": 8.7,
    "cli": 9,
    "__main__": 10,
}

# which modules may import a library: a unit, or one module of it
OWNERS = {
    # serving.config and cluster: Ray's own schemas and checks of its files
    "ray": ("jobs", "serving.app", "serving.config", "cluster"),
    "mlflow": ("jobs.tracking",),
    "torchvision": ("data.vision",),
    "click": ("cli",),
}

# modules that may import by a name the syntax tree does not show, and why
COMPUTED_IMPORTS = {
    "raypixel": "raypixel.load opens jobs on first use, so that `import raypixel` stays fast",
    "raypixel.models": "imports every file of its own folder, which registers the models",
    "raypixel.kernels": "opens one of its own files, whose library may be missing",
    "raypixel.data.vision": "opens torchvision, its own, with warnings silenced",
}


def problems_of(package: Path) -> list[str]:
    """Return one line for each import or call that breaks a wall; the package is a folder named raypixel."""
    trees = {_module_name(path, package): _parse(path) for path in sorted(package.rglob("*.py"))}
    imports = {name: sorted(_imports(name, tree, trees)) for name, tree in trees.items()}
    problems = []
    for name, targets in imports.items():
        problems += _floor_problems(name, targets)
        problems += _owner_problems(name, targets)
        if name not in COMPUTED_IMPORTS:
            computed = filter(_is_computed_import, ast.walk(trees[name]))
            problems += [f"{name} imports what its text does not name" for _ in computed]
        problems += [f"{name} calls print" for node in ast.walk(trees[name]) if _is_print(node)]
    return problems + [f"cycle: {' -> '.join(cycle)}" for cycle in _cycles(imports)]


def _module_name(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _parse(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.is_package = path.name == "__init__.py"
    return tree


def _imports(name: str, tree: ast.Module, modules: dict[str, ast.Module]) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                source = _absolute(name, module, level, is_package=tree.is_package)
                for alias in names:  # `from package import x` is of the module x where there is one
                    inner = f"{source}.{alias.name}"
                    is_unit = source == "raypixel" and alias.name in FLOORS
                    yield inner if inner in modules or is_unit else source
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]):
                is_import = called in ("import_module", "__import__")
                if is_import and isinstance(first, ast.Constant):
                    yield str(first.value)


def _is_computed_import(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[first, *_]):
            is_import = called in ("import_module", "__import__")
            return is_import and not isinstance(first, ast.Constant)
    return False


def _absolute(name: str, module: str | None, level: int, *, is_package: bool) -> str:
    if level == 0:
        return module or ""
    parts = name.split(".")
    kept = parts[: len(parts) - level + is_package]
    return ".".join([*kept, module] if module else kept)


def _unit(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def _floor_problems(name: str, targets: list[str]) -> list[str]:
    unit = _unit(name)
    if unit not in FLOORS:
        return [f"{name} has no floor"]
    ours = {_unit(target) for target in targets if target.split(".")[0] == "raypixel"}
    return [
        f"{name} (floor {FLOORS[unit]}) imports {other} (floor {FLOORS.get(other)})"
        for other in sorted(ours - {unit})
        if FLOORS.get(other, 99) >= FLOORS[unit]
    ]


def _owner_problems(name: str, targets: list[str]) -> list[str]:
    inner = name.partition(".")[2]
    libraries = {target.split(".")[0] for target in targets} & set(OWNERS)
    return [
        f"{name} imports {library}"
        for library in sorted(libraries)
        if not any(inner == owner or inner.startswith(f"{owner}.") for owner in OWNERS[library])
    ]


def _is_print(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="print")):
            return True
    return False


def _cycles(imports: dict[str, list[str]]) -> list[list[str]]:
    """Return each way back that a depth-first walk finds."""
    cycles, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            cycles.append([*path[path.index(name) :], name])
        elif name not in done:
            for target in imports.get(name, []):
                visit(target, [*path, name])
            done.add(name)

    for name in imports:
        visit(name, [])
    return cycles


def test_modules_import_from_lower_floors_only():
    assert problems_of(PACKAGE) == []


def test_the_table_names_no_unit_that_is_gone():
    there = {_unit(_module_name(path, PACKAGE)) for path in PACKAGE.rglob("*.py")}
    assert set(FLOORS) - there <= {"serving"}


def test_every_module_that_may_compute_an_import_does():
    trees = {_module_name(path, PACKAGE): _parse(path) for path in PACKAGE.rglob("*.py")}
    assert all(any(map(_is_computed_import, ast.walk(trees[name]))) for name in COMPUTED_IMPORTS)


@pytest.mark.parametrize(
    ("file", "text", "problems"),
    [
        (
            "nn/layer.py",
            "from raypixel.config import Frozen",
            ["raypixel.nn.layer (floor 1) imports config (floor 1)"],
        ),
        (
            "units.py",
            "import raypixel.errors",
            ["raypixel.units (floor 0) imports errors (floor 0)"],
        ),
        (
            "evaluation.py",
            "def f():\n    from raypixel import training",
            ["raypixel.evaluation (floor 4) imports training (floor 5)"],
        ),
        (
            "models/net.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import raypixel.data.loader",
            ["raypixel.models.net (floor 2) imports data (floor 3)"],
        ),
        (
            "jobs/run.py",
            "from ..serving import engine",
            ["raypixel.jobs.run (floor 8) imports serving (floor 8.5)"],
        ),
        ("helpers.py", "", ["raypixel.helpers has no floor"]),
        (
            "errors.py",
            "import raypixel.helpers",
            ["raypixel.errors (floor 0) imports helpers (floor None)"],
        ),
        ("training.py", "from ray import train", ["raypixel.training imports ray"]),
        ("training.py", "import ray.train as t", ["raypixel.training imports ray"]),
        (
            "training.py",
            "import importlib\nimportlib.import_module('ray.tune')",
            ["raypixel.training imports ray"],
        ),
        (
            "training.py",
            "import importlib\nimportlib.import_module(f'ray.{1}')",
            ["raypixel.training imports what its text does not name"],
        ),
        ("jobs/run.py", "import mlflow.pytorch", ["raypixel.jobs.run imports mlflow"]),
        ("jobs/tracking_more.py", "import mlflow", ["raypixel.jobs.tracking_more imports mlflow"]),
        (
            "data/images.py",
            "from torchvision.datasets import MNIST",
            ["raypixel.data.images imports torchvision"],
        ),
        ("jobs/run.py", "import click", ["raypixel.jobs.run imports click"]),
        ("serving/engine.py", "import ray", ["raypixel.serving.engine imports ray"]),
        ("cli/main.py", "print('x')", ["raypixel.cli.main calls print"]),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, text, problems):
    assert problems_of(plant(tmp_path, {file: text})) == problems


@pytest.mark.parametrize(
    "files",
    [
        {"nn/a.py": "from raypixel.nn import b", "nn/b.py": "from raypixel.nn.a import f"},
        {"nn/a.py": "from . import b", "nn/b.py": "from .a import f"},
        {"nn/a.py": "import raypixel.nn.b", "nn/b.py": "def f():\n    import raypixel.nn.a"},
    ],
    ids=["absolute", "relative", "inside a function"],
)
def test_a_planted_cycle_inside_a_package_is_found(tmp_path, files):
    assert problems_of(plant(tmp_path, files)) == [
        "cycle: raypixel.nn.a -> raypixel.nn.b -> raypixel.nn.a"
    ]


def test_a_package_that_its_own_module_imports_is_a_cycle(tmp_path):
    files = {
        "nn/__init__.py": "from raypixel.nn.a import f",
        "nn/a.py": "from raypixel.nn import g",
    }
    assert problems_of(plant(tmp_path, files)) == [
        "cycle: raypixel.nn -> raypixel.nn.a -> raypixel.nn"
    ]


def test_what_is_allowed_is_not_reported(tmp_path):
    files = {
        "cli/main.py": "import click\nfrom raypixel.jobs import run",
        "jobs/run.py": "import ray\nimport raylib\nfrom raypixel.sweeps import load_sweep",
        "jobs/tracking/__init__.py": "from raypixel.jobs.tracking.store import f",
        "jobs/tracking/store.py": "def f():\n    import mlflow",
        "serving/app.py": "from ray import serve\nfrom . import engine",
        "serving/engine.py": '"""Say print(x) and import ray."""\nimport printing',
        "data/vision.py": "import torchvision.datasets",
        "sweeps.py": "from raypixel.experiment import load_experiment",
        "experiment.py": "from .config import parse\nfrom raypixel import __version__",
        "__init__.py": "",
    }
    assert problems_of(plant(tmp_path, files)) == []


def plant(folder: Path, files: dict[str, str]) -> Path:
    """Write a package named raypixel and return its folder."""
    package = folder / "raypixel"
    for file, text in files.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    return package
