"""The law of the commit that a run names."""

import subprocess
from pathlib import Path

from raypixel.runs.origin import git_commit


def test_the_commit_is_that_of_a_tracked_file(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(
            ["git", *identity, *command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    source = tmp_path / "__init__.py"
    source.write_text("")
    assert git_commit(source) is None
    git("init")
    assert git_commit(source) is None
    git("add", "__init__.py")
    git("commit", "--message", "first")
    git("tag", "v1")
    assert git_commit(source) == git("rev-parse", "HEAD")
    source.write_text("changed")
    assert git_commit(source) == git("rev-parse", "HEAD") + "-dirty"
    installed = tmp_path / ".venv" / "__init__.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert git_commit(installed) is None
