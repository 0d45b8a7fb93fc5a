"""Errors that a person can fix; the command line prints each as one line and exits 1.

A text reads `<where> must <rule>, got <value>`. A library caller who breaks a documented argument gets
`ValueError`; a broken invariant of our own is an `assert`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches


class RaypixelError(Exception):
    """Hold one or more problems, each one line of text."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (
            (problems,) if isinstance(problems, str) else tuple(problems)
        )
        super().__init__(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(RaypixelError):
    """Report a configuration that cannot be built: unknown key, wrong type, impossible value."""


class DataError(RaypixelError):
    """Report a data set that is missing, damaged, or not what its name says."""


class CheckpointError(RaypixelError):
    """Report a checkpoint directory that is missing, damaged, foreign, or of another version."""


class StorageError(RaypixelError):
    """Report storage under `s3://` that does not answer, refuses, or lacks the bucket, or a disk that is full or read-only."""


class TrainingError(RaypixelError):
    """Report a training that cannot go on, such as a loss that is no longer finite."""


class ServingError(RaypixelError):
    """Report a service that cannot start, or a request that it cannot take."""


@contextmanager
def written(path: object, kind: type[RaypixelError] = RaypixelError) -> Iterator[None]:
    """Say in one line that a path cannot be written, where the body finds the disk full, read-only or not there."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path}: cannot be written ({error.strerror or error})") from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest known word, or an empty string."""
    if len(word) > 100:  # comparing takes the longer, and it is no slip
        return ""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""
