import re

import pytest
from pydantic import Field, ValidationError, field_validator

from raypixel.config import (
    ConfigProblems,
    Frozen,
    apply_overrides,
    dump_yaml,
    flatten,
    load_yaml,
    parse,
    parse_overrides,
    parse_yaml,
    validate,
)
from raypixel.errors import ConfigError


class Inner(Frozen):
    kernel_size: int = Field(3, ge=1)
    norm: str | None = None

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"must be odd, got {value}")
        return value


class Outer(Frozen):
    rate: float
    count: int = 1
    is_fast: bool = False
    name: str = "x"
    sizes: tuple[int, ...] = Field((), strict=False)
    inner: Inner = Inner()


def problems_of(mapping, model_type=Outer) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(model_type, mapping, where="x.yaml")
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": "3"}, "x.yaml: count must be a valid integer, got '3'"),
        ({"count": 3.0}, "x.yaml: count must be a valid integer, got 3.0"),
        ({"count": True}, "x.yaml: count must be a valid integer, got True"),
        ({"is_fast": 1}, "x.yaml: is_fast must be a valid boolean, got 1"),
        ({"is_fast": "yes"}, "x.yaml: is_fast must be a valid boolean, got 'yes'"),
        ({"rate": "0.1"}, "x.yaml: rate must be a valid number, got '0.1'"),
        ({"name": 3}, "x.yaml: name must be a valid string, got 3"),
        ({"name": None}, "x.yaml: name must be a valid string, got None"),
        ({"sizes": [1, "a"]}, "x.yaml: sizes.1 must be a valid integer, got 'a'"),
        ({"inner": {"kernel_size": 4}}, "x.yaml: inner.kernel_size must be odd, got 4"),
        (
            {"inner": {"kernel_size": 0}},
            "x.yaml: inner.kernel_size must be greater than or equal to 1, got 0",
        ),
        ({"inner": [3]}, "x.yaml: inner must be a valid dictionary .*, got a list"),
        ({"size": 3}, "x.yaml: size is not a known key, did you mean 'sizes'?"),
        ({"zzz": 3}, "x.yaml: zzz is not a known key"),
        (
            {"inner": {"kernelsize": 3}},
            "x.yaml: inner.kernelsize is not a known key, did you mean 'kernel_size'?",
        ),
    ],
)
def test_a_value_is_never_converted_and_a_key_never_ignored(changes, problem):
    (line,) = problems_of({"rate": 0.5} | changes)
    assert re.fullmatch(re.escape(problem).replace(r"\.\*", ".*"), line)


def test_a_missing_value_is_named():
    assert problems_of({}) == ["x.yaml: rate must be given"]


def test_a_whole_number_is_a_number():
    assert parse(Outer, {"rate": 1}, where="x").rate == 1.0


def test_what_is_not_a_mapping_is_named_by_its_origin():
    (line,) = problems_of(3)
    assert line.startswith("x.yaml: must be a valid dictionary")


def test_all_problems_come_at_once():
    lines = problems_of(
        {"rate": "fast", "count": 1.5, "inner": {"kernel_size": 2, "nrm": 1}, "inner_": 1}
    )
    assert sorted(lines) == [
        "x.yaml: count must be a valid integer, got 1.5",
        "x.yaml: inner.kernel_size must be odd, got 2",
        "x.yaml: inner.nrm is not a known key, did you mean 'norm'?",
        "x.yaml: inner_ is not a known key, did you mean 'inner'?",
        "x.yaml: rate must be a valid number, got 'fast'",
    ]


def test_problems_of_a_validate_inside_a_validator_keep_their_place():
    class Chooser(Frozen):
        part: Inner

        @field_validator("part", mode="before")
        @classmethod
        def _choose(cls, value: object) -> Inner:
            return validate(Inner, value)

    lines = problems_of({"part": {"kernel_size": 2, "nrm": 1}}, Chooser)
    assert sorted(lines) == [
        "x.yaml: part.kernel_size must be odd, got 2",
        "x.yaml: part.nrm is not a known key, did you mean 'norm'?",
    ]


def test_validate_reports_places_relative_to_its_mapping():
    with pytest.raises(ConfigProblems, match=r"^kernel_size must be odd, got 2$") as caught:
        validate(Inner, {"kernel_size": 2})
    assert caught.value.items == [(("kernel_size",), "must be odd, got 2")]


def test_a_config_does_not_change():
    config = Outer(rate=1.0)
    with pytest.raises(ValidationError, match="frozen"):
        config.rate = 2.0
    with pytest.raises(ValidationError, match="frozen"):
        config.inner.kernel_size = 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2e+3", -2e3),
        ("1.5e3", 1.5e3),
        ("1_000e-3", 1.0),
        ("2.0e-3", 2e-3),
        ("0.5", 0.5),
        ("12", 12),
        ("1e-3x", "1e-3x"),
        ("e3", "e3"),
        ("'1e-3'", "1e-3"),
    ],
)
def test_numbers_are_what_python_reads(text, value):
    read = parse_yaml(f"key: {text}", where="x")["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    ["a: 1\nb: 2\na: 3", "x: {a: 1, a: 1}", "- {a: 1, b: 2, a: 3}", "'<<': 1\n'<<': 2"],
)
def test_a_key_that_stands_twice_is_refused(text):
    with pytest.raises(
        ConfigError,
        match=r"^x.yaml: is not valid YAML: line [1-3], column \d+: key '.*' stands twice$",
    ):
        parse_yaml(text, where="x.yaml")


def test_the_place_of_a_second_key_is_named():
    with pytest.raises(ConfigError, match=r"line 3, column 1: key 'a' stands twice$"):
        parse_yaml("a: 1\nb: 2\na: 3", where="x.yaml")


def test_merged_mappings_may_be_changed():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}"
    assert parse_yaml(text, where="x") == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 2, "z": 3},
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a: [1",
            r"x.yaml: is not valid YAML: line 1, column 6: while parsing a flow sequence, expected ',' or",
        ),
        ("a: !!python/object:os.system {}", "could not determine a constructor for the tag"),
        ("", "x.yaml: must hold a mapping of keys to values, got None"),
        ("- 1", r"x.yaml: must hold a mapping of keys to values, got \[1\]"),
        ("text", "x.yaml: must hold a mapping of keys to values, got 'text'"),
        ("{[1]: 2}", "found unhashable key"),
    ],
)
def test_text_that_is_no_mapping_is_one_line(text, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_yaml(text, where="x.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match=r"none.yaml: cannot be read \(No such file or directory\)"
    ):
        load_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_yaml(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes.yaml: cannot be read \(not UTF-8 text\)"):
        load_yaml(tmp_path / "bytes.yaml")


def test_writing_and_reading_gives_an_equal_config(tmp_path):
    config = Outer(
        rate=1e-05,
        count=-3,
        is_fast=True,
        name="1e-3",
        sizes=(1, 2),
        inner=Inner(kernel_size=7, norm="null"),
    )
    text = dump_yaml(config)
    assert parse(Outer, parse_yaml(text, where="x"), where="x") == config
    (tmp_path / "x.yaml").write_text(text)
    assert parse(Outer, load_yaml(tmp_path / "x.yaml"), where="x") == config


@pytest.mark.parametrize("name", ["yes", "Größe", "a: b", "#", "", " x ", "12", "~", "1e5"])
def test_any_text_comes_back_as_that_text(name):
    config = Outer(rate=1.0, name=name)
    assert parse(Outer, parse_yaml(dump_yaml(config), where="x"), where="x") == config


def test_assignments_are_read_as_yaml():
    texts = ["a.b=1e-3", "c = [1, 2]", "d=", "e=x=y", "f=true", "g='1'"]
    assert parse_overrides(texts) == {
        "a.b": 1e-3,
        "c": [1, 2],
        "d": None,
        "e": "x=y",
        "f": True,
        "g": "1",
    }


def test_all_wrong_assignments_come_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["novalue", "=3", "a=[1", "fine=1"])
    novalue, nokey, notyaml = caught.value.problems
    assert novalue == "--set must be KEY=VALUE, got 'novalue'"
    assert nokey == "--set must be KEY=VALUE, got '=3'"
    assert notyaml.startswith("--set a: value is not valid YAML: line 1, column 3: while")


def test_overrides_are_laid_over_a_copy():
    mapping = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    changed = apply_overrides(mapping, {"a.c.d": 9, "e": 8, "new.deep.key": 7, "e.f": 6})
    assert changed == {
        "a": {"b": 1, "c": {"d": 9}},
        "e": {"f": 6},
        "new": {"deep": {"key": 7}},
    }
    assert mapping == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_flattened_leaves_laid_over_nothing_give_the_mapping_back():
    mapping = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}
    leaves = flatten(mapping)
    assert leaves == {"a.b": 1, "a.c.d": [1, 2], "e": None}
    assert apply_overrides({}, leaves) == mapping
