"""Strict configuration: YAML text and dotted overrides to frozen pydantic models.

Every problem of a file is reported at once, each naming the file, the dotted key, the rule and the value; a
misspelt key gets "did you mean". Dictionaries end here: past this module a config is a frozen object.
"""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from raypixel.errors import ConfigError, did_you_mean


class Frozen(BaseModel):
    """Base of every config: immutable, unknown keys refused, no silent conversion between types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError(f"must be odd, got {value}")
    return value


OddSize = Annotated[int, AfterValidator(_odd)]
"""Size of a kernel that has a centre."""

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class ConfigProblems(ValueError):
    """Carry (location, text) pairs from a nested `validate` through pydantic to the outer one."""

    def __init__(self, items: list[tuple[tuple[str, ...], str]]) -> None:
        self.items = items
        super().__init__("; ".join(f"{'.'.join(loc)} {text}" for loc, text in items))


def validate(model_type: type[ConfigT], mapping: object) -> ConfigT:
    """Build a config from a mapping; may be called inside another config's validator.

    Raises:
        ConfigProblems: Every problem, with its location relative to `mapping`.
    """
    try:
        return model_type.model_validate(mapping)
    except ValidationError as error:
        raise ConfigProblems(explain(error.errors(), model_type)) from None


def parse(model_type: type[ConfigT], mapping: object, *, where: str) -> ConfigT:
    """Build a config from a mapping, naming its origin (a file or a recipe) in every error.

    Raises:
        ConfigError: One line for each problem.
    """
    try:
        return validate(model_type, mapping)
    except ConfigProblems as error:
        raise ConfigError(
            [f"{where}: {'.'.join(loc)} {text}".replace(":  ", ": ") for loc, text in error.items]
        ) from None


def load_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping, refusing duplicate keys.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason})") from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> dict[str, Any]:
    """Read one YAML mapping from text; see `load_yaml`."""
    try:
        mapping = yaml.load(text, Loader=_Loader)  # noqa: S506 (_Loader is a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: is not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{where}: is nested too deeply") from None
    except ValueError as error:  # of a number or a date that is none
        raise ConfigError(f"{where}: is not valid YAML: {error}") from None
    if not isinstance(mapping, dict):
        raise ConfigError(f"{where}: must hold a mapping of keys to values, got {mapping!r}")
    return mapping


def parse_json(text: str | bytes) -> Any:
    """Read JSON in which no key stands twice.

    Raises:
        json.JSONDecodeError: It is none, or too deeply nested; a ValueError.
    """

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise json.JSONDecodeError(f"key {twice[:64]!r} stands twice", "", 0)
        return found

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except RecursionError:
        raise json.JSONDecodeError("is nested too deeply", "", 0) from None
    except UnicodeDecodeError:
        raise json.JSONDecodeError("is not UTF-8 text", "", 0) from None


def dump_yaml(config: BaseModel | Mapping[str, Any]) -> str:
    """Write a config as YAML that `parse_yaml` and `parse` read back to an equal object."""
    mapping = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
    return yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Read `a.b=value` texts, the values as YAML.

    Raises:
        ConfigError: A text has no `=` or its value is not YAML.
    """
    overrides, problems = {}, []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set must be KEY=VALUE, got {assignment!r}")
            continue
        try:
            overrides[key.strip()] = yaml.load(text, Loader=_Loader)  # noqa: S506
        except yaml.YAMLError as error:
            problems.append(f"--set {key}: value is not valid YAML: {_one_line(error)}")
        except (ValueError, RecursionError) as error:
            problems.append(f"--set {key}: value is not valid YAML: {error}")
    if problems:
        raise ConfigError(problems)
    return overrides


def apply_overrides(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested mapping with dotted keys set; missing sections are made."""
    result = copy.deepcopy(dict(mapping))
    for dotted, value in overrides.items():
        section = result
        *parents, last = dotted.split(".")
        for name in parents:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return result


def flatten(mapping: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            leaves.update(flatten(value, prefix=f"{name}."))
        else:
            leaves[name] = value
    return leaves


# --- from pydantic's errors to ours ---


def explain(
    details: Iterable[Any], model_type: type[BaseModel]
) -> list[tuple[tuple[str, ...], str]]:
    """Return the location and the sentence of each of pydantic's errors."""
    items = []
    for detail in details:
        loc = tuple(str(part) for part in detail["loc"])
        nested = detail.get("ctx", {}).get("error")
        if isinstance(nested, ConfigProblems):
            items += [(loc + inner, text) for inner, text in nested.items]
        elif detail["type"] == "extra_forbidden":
            known = _fields_at(model_type, loc[:-1])
            items.append((loc, f"is not a known key{did_you_mean(loc[-1], known)}"))
        else:
            items.append((loc, _rule(detail)))
    return items


def _rule(detail: Any) -> str:
    if detail["type"] == "missing":
        return "must be given"
    if detail["type"] == "value_error":  # our own validators write whole sentences
        return str(detail["ctx"]["error"])
    if detail["type"] in ("too_short", "too_long"):
        few = detail["type"] == "too_short"
        bound = detail["ctx"]["min_length" if few else "max_length"]
        rule = f"must have at {'least' if few else 'most'} {bound}"
        return f"{rule}, got {detail['ctx']['actual_length']}"
    rule = detail["msg"].replace("Input should be", "must be").replace("Input should", "must")
    rule = rule.replace("String should", "must").replace("Input is not a", "must be a")
    given = detail["input"]
    shown = f"a {type(given).__name__}" if isinstance(given, dict | list) else repr(given)
    return f"{rule}, got {shown}"


def _fields_at(model_type: type[BaseModel], loc: tuple[str, ...]) -> list[str]:
    """Return the keys that a config knows at a location, looking through optional values, lists and mappings."""
    fields = model_type
    for name in loc:
        if name.isdecimal():  # a place in a list, whose items are known from the field before
            continue
        known = {info.alias or key: info for key, info in fields.model_fields.items()}
        inner = _config_in(known[name].annotation) if name in known else None
        if inner is None:
            return []
        fields = inner
    return [info.alias or key for key, info in fields.model_fields.items()]


def _config_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_config_in(argument) for argument in get_args(annotation))
    return next((config for config in found if config is not None), None)


def _one_line(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, without the excerpts that PyYAML adds on lines of their own."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    assert isinstance(error, yaml.MarkedYAMLError)
    context = f"{error.context}, " if error.context else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {context}{error.problem}"


class _Loader(yaml.SafeLoader):
    """Refuse a key that stands twice, which plain YAML silently overwrites; read 1e-3 as a number."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 (PyYAML's signature)
    ) -> dict[Any, Any]:
        nodes = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in nodes]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice", nodes[position].start_mark
                )
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quote a text that `_Loader` would read as a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
