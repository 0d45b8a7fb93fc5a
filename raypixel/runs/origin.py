"""The code that a run came from."""

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import raypixel


@functools.cache
def origin_of_code() -> dict[str, str]:
    """Return the versions and the commit of the code, as MLflow's tags name them, and nothing of the user."""
    tags = {"raypixel.version": raypixel.__version__}
    for package in ("torch", "ray"):
        try:
            tags[f"{package}.version"] = version(package)
        except PackageNotFoundError:
            continue
    commit = git_commit(Path(raypixel.__file__))
    if commit is not None:
        tags["raypixel.git_commit"] = commit
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    return tags


def git_commit(source: Path) -> str | None:
    """Return the commit of a tracked file, followed by `-dirty` where its repository differs; else None."""
    git = ["git", "-C", str(source.parent)]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # an installed copy can lie inside somebody else's repository, but untracked
        for command in (["ls-files", "--error-unmatch", source.name], describe):
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
