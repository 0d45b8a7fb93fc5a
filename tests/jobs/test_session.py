"""Ray's runtime as this process starts it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from raypixel.jobs import session


def test_processes_that_make_the_token_at_once_agree_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path, barrier = tmp_path / ".ray" / "auth_token", Barrier(8)

    def make(_: int) -> str:
        barrier.wait()
        session.ensure_token()
        return path.read_text()

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(make, range(8)))
    assert [len(token) for token in tokens] == [64]
    assert [file.name for file in path.parent.iterdir()] == ["auth_token"]
    assert path.stat().st_mode & 0o077 == 0


def test_an_address_where_nothing_listens_is_refused_at_once():
    code = "from raypixel.jobs import session\nwith session.cluster('127.0.0.1:1'): pass"
    # a process of its own: one that is connected already stays so. Ray alone tries for a quarter of an hour
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    expected = (
        "RaypixelError: no Ray cluster answers at 127.0.0.1:1: [Errno 111] Connection refused"
    )
    assert expected in process.stderr
