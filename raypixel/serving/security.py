"""API keys: from a file or the environment, compared in constant time, required beyond the own machine."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path

from raypixel.errors import ConfigError, ServingError

KEYS_VARIABLE = "RAYPIXEL_API_KEYS"
_SHORTEST = 16


class Keys:
    """The keys that are known; only their digests are kept. Without any, every request is let in."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

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
