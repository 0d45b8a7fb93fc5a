"""The service as it is started: `raypixel serve` as a process, Ray Serve with two replicas, a kill, and SIGTERM."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

import raypixel
from raypixel.errors import ServingError
from tests.serving.service import wait_until, write_model

pytestmark = [pytest.mark.serve, pytest.mark.slow]


def free_port() -> int:
    """Return a port that is free and stays so: below those that the system gives to connections, above Ray's own."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", port)):
                return port


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served") / "digits", image_shape=(1, 16, 16))


@contextmanager
def serve(path, folder, *options, **popen):
    """Run `raypixel serve` in a folder, its stderr in a file there; end it."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(Path(raypixel.__file__).parents[1])
    command = [sys.executable, "-m", "raypixel", "serve", str(path), *options]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [*command, "--port", str(free_port())],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder, env=environment, **popen,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(180)
        process.stdout.close()


@pytest.fixture(scope="module")
def service(path, tmp_path_factory):
    """Run it with two replicas; yield the process and its address."""
    folder = tmp_path_factory.mktemp("cwd")
    with serve(path, folder, "--replicas", "2") as process:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), (folder / "stderr").read_text()
        yield process, url


def running(process, name: str) -> set[int]:
    """Return the ids of the service's descendants whose command holds a name."""
    found = psutil.Process(process.pid).children(recursive=True)
    return {each.pid for each in found if name in " ".join(safe_command(each))}


def replicas(process) -> set[int]:
    return running(process, "ServeReplica")


def safe_command(process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for_two_replicas(process, url: str) -> None:
    """Wait until two replicas run and both answer."""
    names: set[str] = set()

    def answered() -> bool:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            names.update(re.findall(r'replica="([^"]+)"', answer.read().decode()))
        return len(names) >= 2

    wait_until(lambda: len(replicas(process)) == 2, seconds=180)
    wait_until(answered, seconds=180)


def test_answers_are_those_of_the_model(service, path):
    client = raypixel.Client(service[1])
    expected = raypixel.load(path, device="cpu").sample(5, seed=3).numpy()
    assert (client.sample(5, seed=3) == expected).all()
    wait_for_two_replicas(*service)


def test_the_proxy_bounds_heads(service):
    port = int(service[1].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 431")


def test_a_killed_replica_harms_no_other_and_comes_back(service):
    process, url = service
    wait_for_two_replicas(process, url)
    victim = min(replicas(process))
    started = threading.Barrier(13)
    ends: dict[str, list[bool]] = {}

    def watch(seed):
        # so many images that none is complete at once, so few that one replica's queue can hold all
        body = {"n": 160, "seed": seed, "stream": True}
        with (
            httpx.Client(timeout=180, trust_env=False) as client,
            client.stream("POST", f"{url}/v1/samples", json=body) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            started.wait(180)
            try:
                is_whole = "event: done" in list(lines)
            except httpx.HTTPError:
                is_whole = False
            ends.setdefault(response.headers["x-replica"], []).append(is_whole)

    threads = [threading.Thread(target=watch, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    started.wait(180)
    os.kill(victim, signal.SIGKILL)
    for thread in threads:
        thread.join(180)
    # streams of one replica ended with it, every one of the other is whole
    assert len(ends) == 2, ends
    assert sorted(all(wholes) for wholes in ends.values()) == [False, True], ends
    assert raypixel.Client(url).sample(1).shape == (1, 1, 16, 16)  # it answers at once
    wait_until(lambda: victim not in replicas(process))
    wait_for_two_replicas(process, url)


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(service):
    process, url = service
    rows = raypixel.Client(url).stream(256, seed=1)
    assert next(rows).row == 0
    process.send_signal(signal.SIGTERM)
    refusals: list[str] = []

    def is_refused() -> bool:
        try:
            raypixel.Client(url, max_wait_s=0).sample(1)
        except ServingError as error:
            refusals.append(str(error))
        return bool(refusals)

    wait_until(is_refused, seconds=60)
    assert "HTTP 503" in refusals[0] or "does not answer" in refusals[0]
    assert {each.image for each in rows} | {0} == set(range(256))
    assert process.wait(180) == 0
    assert "ServeController" not in process.stdout.read()  # nothing of what Ray says at its end


def test_keys_are_in_no_process_of_rays_and_sigterm_to_the_whole_group_ends_in_our_words(
    path, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAYPIXEL_API_KEYS", "correct-horse-battery")
    with serve(path, tmp_path, start_new_session=True) as process:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        with pytest.raises(ServingError, match="an API key must be given"):
            raypixel.Client(url).sample(1)
        assert raypixel.Client(url, api_key="correct-horse-battery").sample(1).shape[0] == 1
        ray_processes = running(process, "")
        assert len(ray_processes) > 5
        for number in ray_processes:
            with suppress(OSError):
                assert b"correct-horse-battery" not in Path(f"/proc/{number}/environ").read_bytes()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(180) == 1
    assert (tmp_path / "stderr").read_text().splitlines()[2:] == [
        "Ctrl-C ends it",
        "finishing what was accepted; once more ends it at once",
        "Ray was ended too: what was accepted is not finished",
    ]


def test_sigterm_while_it_starts_is_told_in_one_line(path, tmp_path):
    with serve(path, tmp_path) as process:
        wait_until(lambda: running(process, "gcs_server"), seconds=180)  # Ray starts
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 130
    said = (tmp_path / "stderr").read_text().split("\n")
    assert said == ["starting digits ...", "", "serve was interrupted", ""]
