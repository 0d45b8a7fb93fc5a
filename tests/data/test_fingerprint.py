import os

from raypixel.data.fingerprint import content_sha256, stat_sha256


def test_names_and_contents_count_and_the_place_and_the_time_do_not(tmp_path):
    for folder, name, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    sums = [
        content_sha256(tmp_path / folder, sorted((tmp_path / folder).iterdir()))
        for folder in "abcd"
    ]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


def test_the_quick_checksum_sees_a_new_time(tmp_path):
    path = tmp_path / "x"
    path.write_text("1")
    before = stat_sha256(tmp_path, [path])
    assert stat_sha256(tmp_path, [path]) == before
    os.utime(path, ns=(1, 1))
    assert stat_sha256(tmp_path, [path]) != before
