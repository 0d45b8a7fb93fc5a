import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from raypixel.data import list_prepared, load_manifest, parse_size, prepare
from raypixel.data.splits import read_split
from raypixel.errors import DataError

from .conftest import write_images


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def run(code: str, *arguments: object, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    options.setdefault("preexec_fn", take_interrupts)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def take_interrupts() -> None:
    """Undo what a shell does to its background processes, so that SIGINT arrives wherever the tests run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_progress_ends_at_the_total(tmp_path):
    steps = []
    prepare("digits", root=tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (1797, 1797)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})


def test_preparing_again_touches_nothing(own_digits):
    root, manifest = own_digits
    before = {path: path.stat().st_mtime_ns for path in (root / "digits").iterdir()}
    steps = []
    again = prepare("digits", root=root, progress=lambda *step: steps.append(step))
    assert again == manifest
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in (root / "digits").iterdir()} == before


@pytest.mark.parametrize("damage", ["missing", "truncated", "manifest"])
def test_preparing_again_mends_a_damaged_set(own_digits, damage):
    root, manifest = own_digits
    path = root / "digits" / manifest.splits["val"].files[0].name
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, 100)
    else:
        (root / "digits" / "manifest.json").write_text("{")
    assert prepare("digits", root=root) == manifest
    assert len(read_split(root, "digits", "val")) == 250


def test_force_makes_an_altered_set_anew(own_digits):
    root, manifest = own_digits
    path = root / "digits" / manifest.splits["val"].files[0].name
    path.write_bytes(path.read_bytes()[::-1])
    assert prepare("digits", root=root, force=True) == manifest
    assert len(read_split(root, "digits", "val")) == 250
    assert names_in(root) == ["digits"]


def test_the_same_images_elsewhere_are_the_same_source(tmp_path):
    write_images(tmp_path / "a", 20)
    write_images(tmp_path / "b", 20)
    root = tmp_path / "data"
    manifest = prepare("faces", root=root, source=tmp_path / "a")
    assert prepare("faces", root=root, source=tmp_path / "a") == manifest
    assert prepare("faces", root=root, source=tmp_path / "b") == manifest
    assert prepare("faces", root=root) == manifest
    assert prepare("faces", root=root, size=(4, 5), channels=3) == manifest


def test_another_source_or_size_for_a_taken_name_is_refused_unless_forced(tmp_path):
    write_images(tmp_path / "a", 20)
    write_images(tmp_path / "b", 20, seed=1)
    root = tmp_path / "data"
    prepare("faces", root=root, source=tmp_path / "a")
    text = (
        r"faces: is prepared from .*/a: --source must have the same content, got .*/b; .* --force"
    )
    with pytest.raises(DataError, match=text):
        prepare("faces", root=root, source=tmp_path / "b")
    text = r"is prepared with 4x5 images: --size must agree, got 8x8; choose another name or pass"
    with pytest.raises(DataError, match=text):
        prepare("faces", root=root, source=tmp_path / "a", size=(8, 8))
    text = r"is prepared with 3 channels: --channels must agree, got 1;"
    with pytest.raises(DataError, match=text):
        prepare("faces", root=root, source=tmp_path / "a", channels=1)
    forced = prepare("faces", root=root, source=tmp_path / "b", size=(8, 8), channels=1, force=True)
    assert forced.image_shape == (1, 8, 8)
    assert load_manifest(root, "faces") == forced
    with pytest.raises(DataError, match=r"prepared with 8x8 images: --size must agree, got none"):
        prepare("faces", root=root, source=tmp_path / "b")
    with pytest.raises(DataError, match=r"1 channels: --channels must agree, got none"):
        prepare("faces", root=root, source=tmp_path / "b", size=(8, 8))


def test_images_changed_in_place_are_another_source(tmp_path):
    write_images(tmp_path / "a", 20)
    prepare("faces", root=tmp_path / "data", source=tmp_path / "a")
    write_images(tmp_path / "a", 20, seed=1)
    with pytest.raises(DataError, match=r"--source must have the same content"):
        prepare("faces", root=tmp_path / "data", source=tmp_path / "a")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path, force):
    write_images(tmp_path / "faces", 20)
    with pytest.raises(
        DataError, match=r"faces: must be absent or a prepared data set, got 000.png"
    ):
        prepare("faces", root=tmp_path, source=tmp_path / "faces", force=force)
    (tmp_path / "digits").mkdir()
    with pytest.raises(DataError, match=r"digits: must be absent or .*, got no manifest.json"):
        prepare("digits", root=tmp_path, force=force)
    assert len(list((tmp_path / "faces").iterdir())) == 20


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        (
            "binarized_mnist",
            {},
            r"'binarized_mnist' must be given with --source PATH, got no source",
        ),
        ("mnits", {}, r"name must be one of digits, mnist, .*got 'mnits', did you mean 'mnist'\?"),
        ("a/b", {}, r"data set name must be 1 to 64 letters.*, got 'a/b'"),
        ("mnist", {"size": (8, 8)}, r"--size must be used with your own images only.*got \(8, 8\)"),
        ("cifar10", {"channels": 1}, r"--channels must be used with your own images only.*got 1"),
        ("digits", {"source": "."}, r"--source must be absent for 'digits', got '.'"),
        (
            "faces",
            {"source": "/no/such"},
            r"--source must be a folder or file that exists, got '/no",
        ),
        ("faces", {"source": ".", "channels": 2}, r"--channels must be 1 or 3, got 2"),
        ("faces", {"source": ".", "size": (0, 8)}, r"--size must be a height and a width of at"),
    ],
)
def test_wrong_requests_are_one_line_and_leave_nothing(tmp_path, monkeypatch, name, options, text):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    with pytest.raises(DataError, match=text) as caught:
        prepare(name, root=root, **options)
    assert "\n" not in str(caught.value)
    assert list_prepared(root) == []


@pytest.mark.parametrize("kind", ["empty", "text", "both"])
def test_a_source_without_images_is_refused(tmp_path, kind):
    source = tmp_path / "source"
    source.mkdir()
    if kind == "text":
        (source / "notes.txt").write_text("no image")
    if kind == "both":
        write_images(source, 3)
        (source / "x.parquet").write_text("")
    got = "both" if kind == "both" else "neither"
    with pytest.raises(
        DataError, match=rf"must hold either image files or parquet files, got {got}"
    ):
        prepare("faces", root=tmp_path / "data", source=source)


def test_sizes_are_height_and_width():
    assert parse_size("32") == (32, 32)
    assert parse_size("28x40") == (28, 40)
    assert parse_size(" 8X6 ") == (8, 6)
    for text in ("", "x", "8x", "8x6x4", "0x8", "-8", "8.5", "8,6", "99999"):
        with pytest.raises(DataError, match=r"--size must be HEIGHTxWIDTH, such as 32x32, got"):
            parse_size(text)


def test_a_download_without_network_names_the_source_option(tmp_path):
    code = """
    import sys, urllib.request
    from pathlib import Path
    from raypixel.data import prepare
    from raypixel.errors import DataError
    def offline(*_, **__):
        raise OSError("no network in this test")
    urllib.request.urlopen = offline
    for name in ("mnist", "cifar10"):
        try:
            prepare(name, root=Path(sys.argv[1]))
        except DataError as error:
            print(error)
    """
    output, errors = run(code, tmp_path / "data").communicate(timeout=120)
    lines = output.splitlines()
    assert len(lines) == 2, errors
    for name, line in zip(("mnist", "cifar10"), lines, strict=True):
        assert line.startswith(f"data set '{name}' must be downloaded or given with --source PATH")
        assert "no network in this test" in line
    assert names_in(tmp_path / "data") == []


SLOW_PREPARE = """
import os, sys, time
from pathlib import Path
from raypixel.data import prepare
def pause(done, total):
    print(done, flush=True)
    time.sleep(60)
prepare("digits", root=Path(sys.argv[1]), progress=pause)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "interrupt"])
def test_an_interrupted_preparation_leaves_nothing_that_looks_complete(tmp_path, number):
    with run(SLOW_PREPARE, tmp_path) as process:
        assert process.stdout.readline().strip() == "1297"
        assert len(list(tmp_path.glob(".raypixel-*/train-*.parquet"))) == 1
        process.send_signal(number)
        process.wait(timeout=60)
    assert list_prepared(tmp_path) == []
    with pytest.raises(DataError, match="not prepared"):
        load_manifest(tmp_path, "digits")
    assert len(names_in(tmp_path)) == (1 if number == signal.SIGKILL else 0)
    manifest = prepare("digits", root=tmp_path)
    assert names_in(tmp_path) == ["digits"]
    assert list_prepared(tmp_path) == [manifest]
    assert len(read_split(tmp_path, "digits", "train")) == 1297


def test_an_interrupted_replacement_keeps_the_old_set(own_digits):
    root, manifest = own_digits
    code = SLOW_PREPARE.replace("progress=pause", "progress=pause, force=True")
    with run(code, root) as process:
        process.stdout.readline()
        process.kill()
        process.wait(timeout=60)
    assert list_prepared(root) == [manifest]
    assert len(read_split(root, "digits", "test")) == 250


def test_an_error_in_the_progress_leaves_nothing(tmp_path):
    def fail(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        prepare("digits", root=tmp_path, progress=fail)
    assert names_in(tmp_path) == []


def test_two_preparations_at_once_end_with_one_set(tmp_path):
    results = []

    def work() -> None:
        results.append(prepare("digits", root=tmp_path))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [load_manifest(tmp_path, "digits")] * 3
    assert names_in(tmp_path) == ["digits"]


def test_a_file_that_cannot_grow_is_a_data_error_and_leaves_nothing(tmp_path):
    code = """
    import resource, sys
    from pathlib import Path
    from raypixel.data import prepare
    from raypixel.errors import DataError
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    try:
        prepare("digits", root=Path(sys.argv[1]))
    except DataError as error:
        print(error)
    """
    output, errors = run(code, tmp_path).communicate(timeout=120)
    assert f"{tmp_path}: must be writable and have space for data set 'digits', got" in output, (
        errors
    )
    assert "File too large" in output
    assert names_in(tmp_path) == []


def test_a_full_disk_is_a_data_error_and_leaves_nothing(tmp_path):
    code = """
    import os, sys
    from pathlib import Path
    from raypixel.data import prepare
    from raypixel.errors import DataError
    try:
        prepare("digits", root=Path(sys.argv[1]))
    except DataError as error:
        print(error, os.listdir(sys.argv[1]))
    """
    script = 'mount -t tmpfs -o size=32k tmpfs "$1" || exit 77; exec "$2" -c "$3" "$1"'
    arguments = [str(tmp_path), sys.executable, textwrap.dedent(code)]
    try:
        result = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except FileNotFoundError:
        pytest.skip("a full disk needs unshare(1)")
    if result.returncode in (1, 77):
        pytest.skip(f"a full disk needs leave to mount a tmpfs: {result.stderr.strip()}")
    assert "have space for data set 'digits', got" in result.stdout, result.stderr
    assert "No space left on device []" in result.stdout.replace("Detail: ", "")


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(
        DataError, match=r"data: must be writable and have space .*, got File exists"
    ):
        prepare("digits", root=tmp_path / "data")


def test_a_picture_that_cannot_be_decoded_is_named_and_leaves_nothing(tmp_path):
    write_images(tmp_path / "a", 20, size=(40, 40))
    path = tmp_path / "a" / "007.png"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=r"007.png: must be a readable image, got"):
        prepare("faces", root=tmp_path / "data", source=tmp_path / "a")
    assert names_in(tmp_path / "data") == []


def test_the_origin_tells_where_the_images_came_from(tmp_path):
    write_images(tmp_path / "a", 20)
    origin = prepare("faces", root=tmp_path / "data", source=tmp_path / "a").origin
    assert origin.source == str((tmp_path / "a").resolve())
    assert origin.num_files == 20
    assert origin.num_bytes == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert prepare("digits", root=tmp_path / "data").origin.source == "scikit-learn"


def test_the_folder_can_be_read_by_others(own_digits):
    root, _ = own_digits
    mask = os.umask(0)
    os.umask(mask)
    assert (root / "digits").stat().st_mode & 0o777 == 0o777 & ~mask
    text = (root / "digits" / "manifest.json").read_text()
    assert json.loads(text)["splits"]["train"]["num_images"] == 1297


def test_images_are_written_as_they_are(tmp_path):
    arrays = write_images(tmp_path / "a", 30)
    prepare("faces", root=tmp_path / "data", source=tmp_path / "a")
    parts = [read_split(tmp_path / "data", "faces", name) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [24, 3, 3]
    assert all(part.class_labels is None for part in parts)
    seen = {image.numpy().tobytes() for part in parts for image in part.images}
    assert seen == {np.ascontiguousarray(array.transpose(2, 0, 1)).tobytes() for array in arrays}
