"""What is written into a working copy gets to storage, whatever storage does meanwhile."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from raypixel import storage
from raypixel.errors import StorageError
from raypixel.runs import Event
from raypixel.runs.remote import WRITER, read_index
from raypixel.runs.writer import Mirror
from tests.trained import train_into


class Wire:
    """Carry connections to a server, until it is cut."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.is_cut = threading.Event()
        self.ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.is_cut.set()
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def mend(self) -> None:
        self.is_cut.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut.is_set():
                near.close()
                continue
            far = socket.create_connection(self.target)
            self.ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                end.close()


@contextmanager
def wire_to(endpoint: str) -> Iterator[Wire]:
    wire = Wire(endpoint)
    try:
        yield wire
    finally:
        wire.cut()
        wire.listener.close()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_training_goes_on_without_storage_and_puts_everything_when_it_answers(
    tiny, digits, bucket, s3_endpoint, monkeypatch
):
    place = bucket / "run"
    config = tiny(training__num_epochs=6)
    news: list[str] = []
    with wire_to(s3_endpoint) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.address)
        told = storage.working_copy(place, purpose=WRITER) / "events.jsonl"

        def watch(event: Event) -> None:
            if event.kind == "warning":
                news.append(event.text)
            elif event.kind == "epoch" and event.epoch == 2:
                wire.cut()
            elif event.kind == "epoch" and event.epoch == 5:
                wait_for(lambda: "trying again" in told.read_text())
                wire.mend()

        train_into(place, config, digits, watch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert len(news) == 2
    assert news[0].endswith("; going on, and trying again")
    assert news[1] == f"{place}: storage answers again, everything is put"
    assert read_index(place).last == "step-00000024"
    assert len(storage.read_bytes(place / "metrics.jsonl").splitlines()) == 6


def test_end_without_storage_tells_where_the_checkpoints_are(
    bucket, s3_endpoint, tmp_path, monkeypatch
):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with wire_to(s3_endpoint) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", wire.address)
        mirror = Mirror(tmp_path, bucket / "run", lambda text: None)
        wire.cut()
        mirror.push()
        with pytest.raises(StorageError, match=f"what could not be put is in {tmp_path}$"):
            mirror.close(4.0)


def test_file_that_did_not_change_is_not_put_again(bucket, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    mirror = Mirror(tmp_path, bucket / "run", pytest.fail)
    mirror.push()
    assert mirror.flush(30.0)
    storage.delete([bucket / "run" / "metrics.jsonl"])
    mirror.push()
    mirror.close(30.0)
    assert storage.read_bytes(bucket / "run" / "metrics.jsonl") is None
