"""The Ray version of a file must be the installed one: a driver refuses a cluster of another."""

import re

_TAG = re.compile(r":(?P<tag>[^:/@]+)(?:@[^@]*)?$")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def image_version(image: str) -> str | None:
    """Return the Ray version that an image's tag names, None where it names none."""
    tag = _TAG.search(image)
    found = _VERSION.search(tag["tag"]) if tag else None
    return found and found[0]


def version_problem(where: str, version: str | None) -> list[str]:
    """Return a line if a version is not that of the installed Ray."""
    import ray

    if version == ray.__version__:
        return []
    return [f"{where} must be Ray {ray.__version__} like the one installed here, got {version}"]
