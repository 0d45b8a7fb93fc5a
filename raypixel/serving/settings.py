"""What a service is told: its models, limits and API keys. On a cluster `Settings` are the `args` of the application."""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raypixel.config import ConfigProblems, Frozen
from raypixel.errors import ConfigError, ServingError

KEYS_VARIABLE = "RAYPIXEL_API_KEYS"
_SHORTEST = 16


class Limits(Frozen):
    """Bounds on what is asked for; beyond them a request is refused, with a sentence."""

    max_n: Annotated[int, Field(ge=1)] = 256
    """Images of a request for samples, and completions of each picture."""

    max_images: Annotated[int, Field(ge=1)] = 64
    """Pictures of a request."""

    max_image_bytes: Annotated[int, Field(ge=64)] = 1 << 20
    """Size of an encoded picture."""

    max_body_bytes: Annotated[int, Field(ge=256)] = 1 << 23
    """Size of a request's body."""

    max_queued_images: Annotated[int, Field(ge=1)] = 2048
    """Images that may wait for a slot, for each model and replica."""

    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """A request that takes longer is cancelled."""


class Settings(Frozen):
    """Say what is served, and how."""

    models: Annotated[dict[str, str], Field(min_length=1)]
    """Name to checkpoint: the path of a checkpoint or a run, `zoo:NAME`, or `models:/NAME@ALIAS` of MLflow's registry.
    The first answers where a request names none."""

    limits: Limits = Limits()
    """Bounds on what is asked for."""

    num_slots: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images that a replica makes at a time, for each model."""

    max_loaded_models: Annotated[int, Field(ge=1)] = 4
    """Models that a replica keeps in memory; the longest unused one makes room."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    num_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of a replica; `null` lets PyTorch choose."""

    api_keys_file: Annotated[Path, Field(strict=False)] | None = None
    """File of API keys, one a line; more may stand in RAYPIXEL_API_KEYS."""

    allowed_hosts: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names that requests may give in `Host`. Without any, those of this machine where no key is required, else all."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.models:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
                rule = "must be a name of letters, digits, '-', '_' and '.', at most 64"
                raise ConfigProblems([(("models",), f"{rule}, got {name!r}")])
        return self


class Keys:
    """The keys that are known; only their digests are kept. Without any, every request is let in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __or__(self, other: "Keys") -> "Keys":
        both = Keys()
        both._digests = self._digests + other._digests
        return both

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request may be let in: `Authorization: Bearer KEY`, or `X-API-Key: KEY`."""
        kind, _, key = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            key = headers.get("x-api-key", "")
        given = _digest(key.strip())
        # all are compared, so that the time tells nothing
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return any(matches) or not self._digests


def read_keys(file: Path | None, environment: Mapping[str, str]) -> Keys:
    """Read keys: one a line of a file, and separated by commas in RAYPIXEL_API_KEYS.

    Raises:
        ConfigError: The file cannot be read or holds none, or a key is too short.
    """
    keys = [(KEYS_VARIABLE, key) for key in environment.get(KEYS_VARIABLE, "").split(",")]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(f"{file}: API keys cannot be read ({reason})") from None
        found = [(str(file), line) for line in lines if not line.lstrip().startswith("#")]
        if not any(line.strip() for _, line in found):
            raise ConfigError(f"{file}: must hold an API key on each line, got none")
        keys += found
    given = [(where, key.strip()) for where, key in keys if key.strip()]
    for where, key in given:
        if len(key) < _SHORTEST or not key.isascii() or " " in key:
            rule = f"an API key must have {_SHORTEST} or more ASCII characters and no space"
            raise ConfigError(f"{where}: {rule}, got one of {len(key)}")
    return Keys(key for _, key in given)


def require_keys(keys: Keys, host: str) -> None:
    """Refuse to listen to other machines without keys.

    Raises:
        ServingError: The address is not of this machine only, and there is no key.
    """
    if not keys and not is_loopback(host):
        raise ServingError(
            f"an API key must be given (--api-keys FILE or {KEYS_VARIABLE}) where other machines can ask, "
            f"got none for the address {host}"
        )


def is_loopback(host: str) -> bool:
    """Return whether an address is that of this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # a name, which may be anything
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
