"""A list of images gives back the images that it was given, whatever their keys, places and figures are."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.files.image_list import NO_TIME, ImageList
from semdis_cli.records import SourceImage
from semdis_cli.sources.files import ON_DISK

key = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.binary(max_size=4).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)
figure = st.integers(-(1 << 70), 1 << 70) | st.integers(-2, 2)


@st.composite
def image(draw: st.DrawFn) -> SourceImage:
    name = draw(key)
    place = draw(st.sampled_from(["", "/a/", "/b/", "elsewhere"])) + draw(st.sampled_from([name, "", "/other"]))
    times = draw(st.none() | figure), draw(st.none() | figure)
    return SourceImage(name, ON_DISK, draw(st.sampled_from([place, 7])), draw(st.integers(0, 1 << 70)), *times)


@given(st.lists(image(), max_size=8))
def test_what_goes_in_comes_out(images: list[SourceImage]) -> None:
    # The least of all 64-bit numbers stands for no time; no disk has it.
    images = [each for each in images if NO_TIME not in {each.mtime_ns, each.ctime_ns}]
    found = ImageList(images)
    assert list(found) == images == found[:] == [found[number] for number in range(len(images))]
    assert list(found.facts()) == [(each.key, each.num_bytes, each.mtime_ns, each.ctime_ns) for each in images]
    times = [[each.mtime_ns for each in images], [each.ctime_ns for each in images]]
    assert list(map(list, found.times())) == [[NO_TIME if time is None else time for time in all_] for all_ in times]
    keys = [each.key for each in images]
    assert found.is_rising == all(one < other for one, other in pairwise(keys))
    assert list(found.sorted()) == sorted(images, key=lambda each: each.key)


@given(st.lists(st.tuples(key, figure), min_size=1, max_size=5), st.sampled_from(["/a/", ""]))
def test_many_at_once_are_the_same_as_one_by_one(rows: list[tuple[str, int]], start: str) -> None:
    rows = [(name, number) for name, number in rows if number != NO_TIME] or [("a", 1)]
    found = ImageList()
    root = found.root(ON_DISK, start, 0)
    found.extend(root, [name for name, _ in rows], [number for _, number in rows for _ in range(3)])
    assert list(found) == [SourceImage(name, ON_DISK, start + name, number, number, number) for name, number in rows]
