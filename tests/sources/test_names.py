"""Beginnings of the keys of sources: the shortest names that tell them apart."""

import random
from pathlib import Path

import pytest

from semdis_cli.sources.names import NamedPath, shortest_names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["/d/00000.tar", "/d/00001.tar"], ["00000", "00001"]),
        (["/d/job1/00000.tar", "/d/job2/00000.tar", "/d/job2/00001.tar"], ["job1/00000", "job2/00000", "00001"]),
        (["/d/a/photos/", "/d/b/photos/"], ["a/photos", "b/photos"]),
        (["/d/a/x/photos/", "/d/b/x/photos/", "/d/c/y/photos/"], ["a/x/photos", "b/x/photos", "y/photos"]),
        (["/photos/", "/d/photos/"], ["photos", "d/photos"]),
        (["/d/photos/", "/d/photos.tar"], ["photos", "photos.tar"]),
        (["/d/photos/", "/e/photos.tar"], ["d/photos", "e/photos"]),
        (["/d/photos/", "/d/photos/"], ["photos", "photos"]),
        (["/d/photos.tar", "/d/photos.TAR", "/d/photos.tar.gz"], ["photos.tar", "photos.TAR", "photos.tar.gz"]),
        (["/", "/d/"], ["", "d"]),
        (["/d/.tar", "/d/a.b.tar"], [".tar", "a.b"]),
    ],
)
def test_a_name_has_the_fewest_folders_that_tell_it_from_the_others(sources: list[str], names: list[str]) -> None:
    paths = [NamedPath.of_folder(Path(one)) if one.endswith("/") else NamedPath.of_file(Path(one)) for one in sources]
    assert shortest_names(paths) == names
    shuffled = random.Random(0).sample([*zip(paths, names, strict=True)], len(paths))
    assert shortest_names([path for path, _ in shuffled]) == [name for _, name in shuffled]


def test_a_folder_goes_by_what_a_link_leads_to_and_a_tar_by_the_link(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "photos").mkdir(parents=True)
    (tmp_path / "blobs" / "0f3a").touch()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "images").symlink_to("../blobs/photos")
    (tmp_path / "snapshot" / "00000.tar").symlink_to("../blobs/0f3a")
    assert NamedPath.of_folder(tmp_path / "snapshot" / "images").name == "photos"
    tar = NamedPath.of_file(tmp_path / "snapshot" / "00000.tar")
    assert [*tar.names][:2] == ["00000", "snapshot/00000"]
    assert [*tar.linked_names][:2] == ["0f3a", "blobs/0f3a"]
