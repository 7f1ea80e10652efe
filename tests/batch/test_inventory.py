"""Which files are scans, and what their outputs are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_instrument import ToyReader

from labrecon.batch.inventory import (
    common_root,
    find,
    fingerprint,
    is_pattern,
    names_for,
    require_files,
)
from labrecon.batch.watch import StableFiles
from labrecon.errors import ScanError

READERS = {"npz": ToyReader()}


class FolderReader(ToyReader):
    def matches(self, path):
        return (path / "stack.txt").exists()


@pytest.fixture
def tree(tmp_path):
    for name in ("b/s10.toy", "b/s9.toy", "a/s1.toy", "a/notes.txt", "out/scans/s1/volume.toy"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def names(paths, root):
    return [str(path.relative_to(root)) for path in paths]


def test_patterns_find_files_in_natural_order_and_not_the_outputs(tree):
    found = find([f"{tree}/**/*.toy"], READERS, without=tree / "out")
    assert names(found, tree) == ["a/s1.toy", "b/s9.toy", "b/s10.toy"]
    twice = find([f"{tree}/a/*.toy", f"{tree}/a/s1.toy"], READERS)
    assert names(twice, tree) == ["a/s1.toy"]


def test_a_file_that_nobody_reads_is_a_scan_and_a_folder_only_where_a_reader_says_so(tree):
    assert names(find([f"{tree}/a/*"], READERS), tree) == ["a/notes.txt", "a/s1.toy"]
    assert find([f"{tree}/*"], READERS) == []
    (tree / "b" / "stack.txt").touch()
    assert names(find([f"{tree}/*"], {"folder": FolderReader()}), tree) == ["b"]


def test_a_path_that_does_not_exist_is_told(tree):
    with pytest.raises(ScanError, match=r"s77\.toy does not exist"):
        require_files([f"{tree}/*.toy", f"{tree}/s77.toy"])


def test_a_file_with_brackets_in_its_name_is_no_pattern(tmp_path):
    odd = tmp_path / "scan[1].toy"
    odd.touch()
    assert not is_pattern(str(odd))
    assert is_pattern(str(tmp_path / "scan[2].toy"))
    assert find([str(odd)], READERS) == [odd]


def test_the_root_is_what_all_matches_have_in_common():
    assert common_root(["/data/night/**/*.h5"]) == Path("/data/night")
    assert common_root(["/data/a/x.h5", "/data/b/y.h5"]) == Path("/data")
    assert common_root(["/data/*/x.h5", "/data/b/y.h5"]) == Path("/data")


def test_names_are_paths_without_suffix_unless_they_are_taken():
    root = Path("/d")
    paths = [Path(f"/d/{name}") for name in ("s1.h5", "n/s1.h5", "s1.tif", "s2.mrd.h5", "v1.2.h5")]
    told = [name for _, name in names_for(paths, root, ())]
    assert told == ["s1", "n/s1", "s1.tif", "s2", "v1.2"]
    assert [name for _, name in names_for([Path("/d/s1.npz")], root, told)] == ["s1.npz"]


def test_a_scan_that_lies_elsewhere_has_its_whole_path_for_a_name():
    assert names_for([Path("/other/s1.h5")], Path("/d"), ()) == [(Path("/other/s1.h5"), "other/s1")]


def test_no_name_is_the_folder_of_another():
    root = Path("/d")
    told = [n for _, n in names_for([Path("/d/a.h5"), Path("/d/a/b.h5")], root, ())]
    assert told == ["a", "a_b.h5"]
    told = [n for _, n in names_for([Path("/d/a/b.h5"), Path("/d/a.h5")], root, ())]
    assert told == ["a/b", "a.h5"]


def test_a_fingerprint_changes_with_size_and_time(tmp_path):
    path = tmp_path / "x"
    assert fingerprint([path]) == {}
    path.write_bytes(b"12")
    first = fingerprint([path])
    assert first["bytes"] == 2
    os.utime(path, ns=(1, first["changed"] + 1))
    assert fingerprint([path]) != first
    assert fingerprint([tmp_path])["bytes"] == 2


def test_a_file_is_finished_when_it_rests(tmp_path):
    time = [0.0]
    files = StableFiles(settle=5.0, clock=lambda: time[0])
    path = tmp_path / "x"
    path.write_bytes(b"")
    assert files.finished([path]) == []
    time[0] = 100.0
    path.write_bytes(b"1")
    assert files.finished([path]) == []
    time[0] = 104.0
    path.write_bytes(b"12")
    assert files.finished([path]) == []
    time[0] = 108.9
    assert files.finished([path]) == []
    assert files.waiting() == 1
    time[0] = 109.1
    assert files.finished([path]) == [path]
    assert files.waiting() == 0
    path.write_bytes(b"123")
    assert files.finished([path]) == []
    path.unlink()
    assert files.finished([]) == []
    assert files.waiting() == 0  # one that vanished is not waited for
