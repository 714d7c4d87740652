"""Several images of a file: their keys lead back to it, and whatever keeps images keeps which one each is."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.events import Failure
from semdis_cli.files.identity import Witness
from semdis_cli.files.image_list import ImageList
from semdis_cli.records import WHOLE, SourceImage, View
from semdis_cli.sources.files import ON_DISK
from semdis_cli.sources.views import in_views

names = st.text(st.sampled_from('a.#2/56crop é\udcff"$'), min_size=1, max_size=9)
views = st.builds(View, st.none() | st.integers(1, 999), st.none() | st.integers(1, 99))


def image(key: str, mtime_ns: int = 1, place: object = None) -> SourceImage:
    return SourceImage(key, ON_DISK, f"/photos/{key}" if place is None else place, 7, mtime_ns, 2)


def test_the_mark_stands_before_the_suffix() -> None:
    assert View(256).key_of("b/a.x.jpg") == "b/a.x#256.jpg"
    assert View(None, 1).key_of("b.c/a") == "b.c/a#crop1"
    assert View(256, 12).key_of("a.jpg") == "a#256crop12.jpg"
    assert WHOLE.key_of("a.jpg") == "a.jpg"


@given(names, views)
def test_a_key_leads_back_to_its_file(key: str, view: View) -> None:
    assert view.file_of(view.key_of(key)) == key
    if view != WHOLE and not key.rpartition(".")[0].endswith(view.mark) and not key.endswith(view.mark):
        assert view.file_of(key) is None


@given(st.sets(names, max_size=6), st.sets(st.integers(1, 99), min_size=1, max_size=3), st.integers(1, 3))
def test_keys_of_views_are_as_many_as_the_views_and_sorted(keys: set[str], sizes: set[int], num_crops: int) -> None:
    several = [View(size, crop) for size in sizes for crop in range(1, num_crops + 1)]
    images, failures = in_views([*map(image, sorted(keys))], [Failure("\U0010ffff", "gone")], several)
    found = [each.key for each in images]
    assert found == sorted({view.key_of(key) for key in keys for view in several})
    assert len(found) == len(keys) * len(several)
    assert [failure.key for failure in failures] == sorted(view.key_of("\U0010ffff") for view in several)


@given(st.lists(st.tuples(names, views, st.booleans()), max_size=8))
def test_a_list_of_images_keeps_their_views(given_: list[tuple[str, View, bool]]) -> None:
    images = [
        SourceImage(view.key_of(key), ON_DISK, 3 if is_number else f"/photos/{key}", 7, 1, 2, view)
        for key, view, is_number in given_
    ]
    assert list(ImageList(images)) == images
    assert [each.file_key for each in ImageList(images)] == [key for key, _, _ in given_]


def test_views_of_one_file_do_not_make_its_time_doubtful(tmp_path: Path) -> None:
    long_ago_ns = 10**18  # with no ctime to vouch for it, as the file system has none
    one, other = (image(key, long_ago_ns, os.fspath(tmp_path / key)) for key in ("a.jpg", "b.jpg"))
    images, _ = in_views([SourceImage("a.jpg", ON_DISK, one.place, 7, long_ago_ns, 0)], [], [View(1), View(2)])
    assert Witness.of(images, 2 * 10**18).shared_mtimes == frozenset()
    assert Witness.of([one, other], 2 * 10**18).shared_mtimes == {long_ago_ns}
