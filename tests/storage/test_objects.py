"""Objects are whole or not there, and what goes wrong is one line."""

import socket
import threading
import time
import urllib.request

import pytest

from raypixel import storage
from raypixel.errors import ConfigError, StorageError
from raypixel.storage import Remote


def test_what_is_put_is_read_listed_copied_and_deleted(bucket, tmp_path):
    place = bucket / "some"
    assert storage.read_bytes(place / "a") is None
    assert not storage.fetch(place / "a", tmp_path / "a")
    assert not storage.exists(place)
    storage.write_bytes(place / "a", b"one")
    (tmp_path / "b").write_bytes(bytes(range(256)) * 100_000)
    storage.upload(tmp_path / "b", place / "deep" / "b")
    assert storage.read_bytes(place / "a") == b"one"
    assert storage.list_files(place) == {"a": 3, "deep/b": 25_600_000}
    assert storage.fetch(place / "deep" / "b", tmp_path / "new" / "b")
    assert (tmp_path / "new" / "b").read_bytes() == (tmp_path / "b").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b"]
    storage.delete([place / "a", place / "absent"])
    storage.delete_folder(place / "deep")
    storage.delete_folder(place / "absent")
    assert not storage.exists(place)


def test_missing_bucket_is_named(bucket, tmp_path):
    place = Remote("s3://no-such-bucket/x")
    (tmp_path / "file").write_bytes(b"x")
    rule = r"^s3://no-such-bucket/x: bucket 'no-such-bucket' must exist, there is none$"
    for act in (
        lambda: storage.write_bytes(place, b"x"),
        lambda: storage.upload(tmp_path / "file", place),
        lambda: storage.list_files(place),
        lambda: storage.check_bucket(place),
    ):
        with pytest.raises(StorageError, match=rule):
            act()


def test_server_that_is_gone_is_named(bucket, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    with pytest.raises(StorageError, match=rf"storage does not answer at {server}$"):
        storage.read_bytes(bucket / "x")


def test_wrong_keys_are_told(bucket, s3_endpoint):
    def check_keys_after(number: bytes) -> None:
        address = f"{s3_endpoint}/moto-api/reset-auth"
        request = urllib.request.Request(address, number, {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()

    storage.write_bytes(bucket / "x", b"1")
    check_keys_after(b"0")
    try:
        for act in (
            lambda: storage.list_files(bucket),
            lambda: storage.read_bytes(bucket / "x"),
            lambda: storage.write_bytes(bucket / "x", b"2"),
        ):
            with pytest.raises(StorageError, match=r"access is refused.*AWS_ACCESS_KEY_ID"):
                act()
    finally:
        check_keys_after(b"Infinity")
    assert storage.read_bytes(bucket / "x") == b"1"


def test_server_must_be_an_address(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    rule = r"AWS_ENDPOINT_URL must be http://HOST:PORT or https://HOST, got 'localhost:9000'"
    with pytest.raises(ConfigError, match=rule):
        storage.read_bytes(bucket / "x")


def test_object_that_grows_while_it_is_read_is_read_whole(bucket):
    contents = [b"x" * (n + 1) for n in range(60)]
    is_over = threading.Event()

    def write() -> None:
        for content in contents:
            storage.write_bytes(bucket / "x", content + b"!")
            time.sleep(0.03)
        is_over.set()

    storage.write_bytes(bucket / "x", b"!")
    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while not is_over.is_set():
        seen.append(storage.read_bytes(bucket / "x"))
    writer.join()
    assert all(content.endswith(b"!") for content in seen)
    assert len({len(content) for content in seen}) > 3
