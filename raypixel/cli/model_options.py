"""The options of every architecture, read from the text of its file: importing the models takes seconds, for torch's sake.

Read are the classes under `@register(kind)`, their first line, and the fields of their nested `Config` and its bases, each with
its annotation, its default and the text below it. Where a file is written in another way, and in a process that has imported
the models already, perhaps with others from outside, the classes are asked instead; a test holds both to the same answer.
"""

import ast
import contextlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args, get_origin


@dataclass(frozen=True)
class KindOptions:
    """What there is to say of an architecture.

    Attributes:
        summary: One line.
        options: For each its name, its values, its default and its meaning.
    """

    summary: str
    options: list[tuple[str, str, str, str]]


def kinds_of_models() -> dict[str, KindOptions]:
    """Return the options of every registered kind, sorted by its name."""
    if "raypixel.models" not in sys.modules:
        with contextlib.suppress(UnreadError):
            return read_kinds()
    return ask_kinds()


def ask_kinds() -> dict[str, KindOptions]:
    """Return the same from the registered classes, which imports them all."""
    from raypixel.models import model_classes

    kinds = {}
    for kind, model in model_classes().items():
        options = []
        for name, field in model.Config.model_fields.items():
            default = field.get_default(call_default_factory=True)
            shown = str(getattr(default, "kind", default))  # of a nested model, its kind
            values = _ask_values(model.Config, name)
            options.append((name, values, shown, field.description or ""))
        kinds[kind] = KindOptions(_first_line(model.__doc__), options)
    return kinds


def _ask_values(config: Any, option: str) -> str:
    """Return what an option may be: a type, its choices, or the kinds of a model inside the model."""
    from raypixel.config import ConfigProblems, validate
    from raypixel.models import ModelConfig, model_classes

    annotation = config.model_fields[option].annotation
    if get_origin(annotation) is Literal:
        return _choices(get_args(annotation))
    if annotation is not ModelConfig:
        return str(getattr(annotation, "__name__", annotation))
    kinds = []
    for kind in model_classes():
        with contextlib.suppress(ConfigProblems):
            validate(config, {option: {"kind": kind}})
            kinds.append(kind)
    return _choices(kinds)


def _choices(values: Any) -> str:
    return " | ".join(map(str, values))


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


# --- from the text ---


class UnreadError(Exception):
    """A file says something in a way that is not read here."""


def read_kinds() -> dict[str, KindOptions]:
    """Return the options of the package's own kinds from their files.

    Raises:
        UnreadError: A file is written in another way.
    """
    models = dict(sorted(_registered()))
    kinds = {}
    for kind, (module, model) in models.items():
        config = next(n for n in model.body if isinstance(n, ast.ClassDef) and n.name == "Config")
        options = []
        for name, field in _fields(module, config).items():
            values = _values(field.module, field.annotation)
            if values is None:
                wanted = _condition(config, name)
                values = _choices(k for k in models if not wanted or wanted in _true(models[k][1]))
            options.append((name, values, _default(field), field.meaning))
        kinds[kind] = KindOptions(_first_line(ast.get_docstring(model)), options)
    return kinds


def _registered() -> Iterator[tuple[str, tuple[str, ast.ClassDef]]]:
    """Yield every kind, the module of its class, and the class."""
    for file in (resources.files("raypixel") / "models").iterdir():
        module = f"raypixel.models.{file.name.removesuffix('.py')}"
        for node in _definitions(module).values() if file.name.endswith(".py") else ():
            for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "register":
                    assert isinstance(node, ast.ClassDef)
                    yield ast.literal_eval(call.args[0]), (module, node)


@dataclass(frozen=True)
class _Option:
    """An option as it is written, and the module whose names it uses."""

    module: str
    annotation: ast.expr
    default: ast.expr | None
    meaning: str


@cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """Return what a module of the package defines or imports, by name."""
    path = resources.files("raypixel").joinpath(*module.split(".")[1:-1])
    name = module.rpartition(".")[2]
    folder, file = path / name, path / f"{name}.py"
    path = folder / "__init__.py" if folder.is_dir() else file
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node
    return found


def _resolve(module: str, name: str) -> tuple[str, ast.stmt | None]:
    """Return where a name is defined and how; None where that is outside the package."""
    node = _definitions(module).get(name)
    if not isinstance(node, ast.ImportFrom):
        return module, node
    origin = node.module or ""
    return _resolve(origin, name) if origin.startswith("raypixel.") else (origin, None)


def _fields(module: str, config: ast.ClassDef) -> dict[str, _Option]:
    """Return the fields of a config, those of its bases first."""
    fields: dict[str, _Option] = {}
    for base in config.bases:
        origin, node = _resolve(module, ast.unparse(base))
        if isinstance(node, ast.ClassDef):
            fields |= _fields(origin, node)
    for node, below in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            text = below.value if isinstance(below, ast.Expr) else None
            meaning = inspect.cleandoc(str(text.value)) if isinstance(text, ast.Constant) else ""
            fields[ast.unparse(node.target)] = _Option(module, node.annotation, node.value, meaning)
    return fields


def _values(module: str, annotation: ast.expr) -> str | None:
    """Return what an option may be, or None where it is a model."""
    if isinstance(annotation, ast.Subscript):
        inside = annotation.slice
        parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
        form = ast.unparse(annotation.value)
        if form == "Literal":
            return _choices(ast.literal_eval(part) for part in parts)
        if form in ("Annotated", "SerializeAsAny"):
            return _values(module, parts[0])
    if isinstance(annotation, ast.Name):
        origin, node = _resolve(module, annotation.id)
        if isinstance(node, ast.Assign):
            return _values(origin, node.value)
        if isinstance(node, ast.ClassDef) and node.name == "ModelConfig":
            return None
        if node is None and annotation.id in ("int", "float", "bool", "str"):
            return annotation.id
    if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
        return f"{_values(module, annotation.left)} | None"
    raise UnreadError(ast.unparse(annotation))


def _default(field: _Option) -> str:
    """Return a default; of a nested model, the kind that its factory names."""
    value = field.default
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        value = value.args[0] if value.args else given.get("default_factory")
        if isinstance(value, ast.Name):
            _, node = _resolve(field.module, value.id)
            for part in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
                if isinstance(part, ast.Dict) and [
                    ast.unparse(key) for key in part.keys if key
                ] == ["'kind'"]:
                    value = part.values[0]
    try:
        return str(ast.literal_eval(value or ""))
    except (SyntaxError, ValueError) as error:
        raise UnreadError(str(error)) from None


def _condition(config: ast.ClassDef, option: str) -> str | None:
    """Return what a model inside the model must have: the validator of the option, `_NAME`, wants the class's NAME."""
    for node in config.body:
        if isinstance(node, ast.FunctionDef):
            wanted = f"field_validator('{option}')"
            if wanted in map(ast.unparse, node.decorator_list):
                return node.name.removeprefix("_")
    return None


def _true(model: ast.ClassDef) -> set[str]:
    """Return the attributes that a class sets to True."""
    return {
        ast.unparse(node.targets[0])
        for node in model.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value) == "True"
    }
