"""Connect to storage with the settings of this process, and say in one line what goes wrong."""

import functools
import os
import re
from dataclasses import dataclass, field
from typing import Any

from raypixel.errors import ConfigError, StorageError

CACHE = "RAYPIXEL_CACHE"
_GIVEN = "_RAYPIXEL_CACHE_IS_GIVEN"  # by another process, not by the machine
SETTINGS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_EC2_METADATA_DISABLED",
    CACHE,
)


@dataclass(frozen=True)
class Access:
    """Settings of this process for another one; they may hold a secret, so they are not shown."""

    variables: dict[str, str] = field(repr=False)

    def use(self) -> None:
        """Take them over in this process; only the folder of working copies that its machine names stays."""
        given = dict(self.variables)
        if CACHE in os.environ and _GIVEN not in os.environ:
            given.pop(CACHE, None)
        elif CACHE in given:
            given[_GIVEN] = "1"
        os.environ.update(given)


def access() -> Access:
    """Return the settings of this process."""
    return Access({name: os.environ[name] for name in SETTINGS if name in os.environ})


def connect(bucket: str) -> Any:
    """Return the pyarrow file system of a bucket, with the settings of this process."""
    settings = tuple(os.environ.get(name, "") for name in SETTINGS)
    return _connect(bucket, endpoint(), settings)


@functools.lru_cache(maxsize=16)
def _connect(bucket: str, server: str, settings: tuple[str, ...]) -> Any:
    from pyarrow import fs

    options = dict(zip(SETTINGS, settings, strict=True))
    region = options["AWS_REGION"] or options["AWS_DEFAULT_REGION"] or None
    scheme, _, host = server.rpartition("://")
    if server and not (scheme in ("http", "https") and host):
        rule = "must be http://HOST:PORT or https://HOST"
        raise ConfigError(f"AWS_ENDPOINT_URL {rule}, got {server!r}")
    keys: dict[str, str | None] = {}
    if options["AWS_ACCESS_KEY_ID"]:  # said aloud: pickled along where Ray takes the file system
        keys["access_key"] = options["AWS_ACCESS_KEY_ID"]
        keys["secret_key"] = options["AWS_SECRET_ACCESS_KEY"]
        keys["session_token"] = options["AWS_SESSION_TOKEN"] or None
    elif server and not options["AWS_PROFILE"]:
        region = region or "us-east-1"
    if not server and region is None:
        try:
            region = fs.resolve_s3_region(bucket)
        except OSError as error:
            raise problem(f"s3://{bucket}", bucket, error) from None
    return fs.S3FileSystem(
        **keys,
        region=region,
        scheme=scheme or None,
        endpoint_override=host.rstrip("/") or None,
        connect_timeout=5.0,
        request_timeout=30.0,
        allow_delayed_open=True,  # one request for a small object, where three would start an upload in parts
    )


def endpoint() -> str:
    """Return the address of the server, empty for AWS."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def problem(where: str, bucket: str, error: OSError) -> StorageError:
    """Say in one line what went wrong."""
    text = " ".join(str(error).split())
    found = re.search(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?", text)
    code, status = (found[1], found[2]) if found else ("", None)
    if code == "NO_SUCH_BUCKET" or ("Bucket" in text and "not found" in text):
        return StorageError(f"{where}: bucket {bucket!r} must exist, there is none")
    refused = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
    if code in refused or status in ("401", "403"):
        advice = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return StorageError(f"{where}: access is refused ({code}), {advice}")
    if code == "NETWORK_CONNECTION":
        server = endpoint() or "AWS"
        return StorageError(f"{where}: storage does not answer at {server}")
    return StorageError(f"{where}: {text}")
