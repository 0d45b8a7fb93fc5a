"""Packaged experiments, one YAML file each, and what they say of themselves before anything is built of it."""

from importlib import resources
from typing import Any

from raypixel.config import parse_yaml
from raypixel.errors import ConfigError, did_you_mean


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("raypixel.recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """Return the YAML text of a packaged recipe.

    Raises:
        ConfigError: There is no such recipe.
    """
    names = recipe_names()
    if name not in names:
        raise ConfigError(
            f"recipe must be one of {', '.join(names)} or a path to a YAML file, "
            f"got {name!r}{did_you_mean(name, names)}"
        )
    return resources.files("raypixel.recipes").joinpath(f"{name}.yaml").read_text("utf-8")


def recipe_summary(name: str) -> list[str]:
    """Return the name, the kind of model, the data set and the description of a recipe, without importing models.

    Raises:
        ConfigError: There is no such recipe, or its text is not YAML.
    """
    told: dict[str, Any] = {"name": name}
    chain: Any = name
    while chain is not None:  # a recipe says only what differs from its base
        mapping = parse_yaml(recipe_text(str(chain)), where=str(chain))
        chain = mapping.get("base")
        known = {
            "kind": mapping.get("model", {}).get("kind"),
            "data": mapping.get("data", {}).get("name"),
            "description": mapping.get("description"),
        }
        told = {key: value for key, value in known.items() if value is not None} | told
    return [str(told.get(key, "")) for key in ("name", "kind", "data", "description")]
