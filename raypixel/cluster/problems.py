"""What may be wrong with any file of a cluster: what its schema refuses, and a Ray that is not the installed one."""

import re
from collections.abc import Iterator
from typing import Any

from raypixel.errors import did_you_mean

_TAG = re.compile(r":(?P<tag>[^:/@]+)(?:@[^@]*)?$")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def schema_problems(schema: dict[str, Any], document: object) -> Iterator[str]:
    """Name every place of a document that a JSON schema refuses."""
    import jsonschema

    for error in jsonschema.Draft7Validator(schema).iter_errors(document):
        place = ".".join(str(part) for part in error.absolute_path)
        inside = f"{place}." if place else ""
        given, rule = error.instance, error.validator_value
        shown = f"a {type(given).__name__}" if isinstance(given, dict | list) else repr(given)
        match error.validator:
            case "additionalProperties" if rule is False:
                known = error.schema.get("properties", {})
                for key in sorted(set(given) - set(known), key=str):
                    yield f"{inside}{key} is not a known key{did_you_mean(str(key), known)}"
            case "required":
                yield from (f"{inside}{key} must be given" for key in rule if key not in given)
            case "type":
                yield f"{place} must be of type {rule}, got {shown}"
            case "const":
                yield f"{place} must be {rule!r}, got {shown}"
            case "enum":
                close = did_you_mean(given, rule) if isinstance(given, str) else ""
                yield f"{place} must be one of {', '.join(map(str, rule))}, got {shown}{close}"
            case "minimum":
                yield f"{place} must be at least {rule}, got {shown}"
            case _:
                yield f"{place}: {error.message}"


def image_version(image: str) -> str | None:
    """Return the Ray version that an image's tag names, None where it names none."""
    tag = _TAG.search(image)
    found = _VERSION.search(tag["tag"]) if tag else None
    return found and found[0]


def version_problems(where: str, version: str | None) -> list[str]:
    """Return a line if a version is not that of the installed Ray: a driver refuses a cluster of another."""
    import ray

    if version == ray.__version__:
        return []
    return [f"{where} must be Ray {ray.__version__} like the one installed here, got {version}"]


def image_problems(where: str, image: object) -> list[str]:
    """Return a line if an image's tag does not name the installed Ray."""
    return version_problems(f"tag of {where}", image_version(str(image)) or f"{image!r}")
