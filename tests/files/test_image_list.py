"""Lists of images in a few bytes each: what is put in comes out, whatever its place is."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from semdis_cli.files.image_list import ImageList
from semdis_cli.records import SourceImage
from semdis_cli.sources.files import FilesOnDisk

READERS = [FilesOnDisk(), FilesOnDisk()]
figures = st.one_of(st.none(), st.integers(-(1 << 64), 1 << 64))
names = st.text(max_size=5)
images = st.builds(
    SourceImage,
    key=names,
    reader=st.sampled_from(READERS),
    place=st.one_of(names, st.integers(-2, 1 << 64), st.tuples(st.integers(), names)),
    num_bytes=st.integers(0, 1 << 64),
    mtime_ns=figures,
    ctime_ns=figures,
)
# As a folder or a tar gives them: places that end as the keys do, or numbers.
files = st.builds(lambda key, top: SourceImage(key, READERS[0], f"{top}/{key}", 5, 7, 9), names, st.sampled_from("ab"))
members = st.builds(lambda key, place: SourceImage(key, READERS[1], place, 5, 7), names, st.integers(0, 9))


@given(st.lists(st.one_of(images, files, members)))
def test_what_is_put_in_comes_out(given_images: list[SourceImage]) -> None:
    kept = ImageList(given_images)
    assert list(kept) == given_images
    assert [kept[number] for number in range(len(kept))] == given_images
    assert kept[1:3] == given_images[1:3]
    assert list(kept.facts()) == [(each.key, *each.stamp) for each in given_images]
    assert list(kept.sorted()) == sorted(given_images, key=lambda each: each.key)
    assert kept.is_rising == all(one.key < other.key for one, other in pairwise(given_images))


@given(st.lists(st.tuples(names, st.integers(-(1 << 64), 1 << 64)), min_size=1), st.sampled_from(["/a/", ""]))
def test_many_at_once_are_the_same_as_one_by_one(rows: list[tuple[str, int]], start: str) -> None:
    kept = ImageList()
    root = kept.root(READERS[0], start, 0)
    kept.extend(root, [name for name, _ in rows], [number for _, number in rows for _ in range(3)])
    assert list(kept) == [SourceImage(name, READERS[0], start + name, number, number, number) for name, number in rows]


@given(st.lists(st.lists(st.one_of(images, files, members), max_size=4), max_size=4))
def test_lists_that_are_joined_are_all_their_images(some: list[list[SourceImage]]) -> None:
    kept = ImageList()
    for each in some:
        kept.join(ImageList(each))
    all_images = [image for each in some for image in each]
    assert list(kept) == all_images
    assert list(kept.facts()) == [(each.key, *each.stamp) for each in all_images]
    assert kept.is_rising == all(one.key < other.key for one, other in pairwise(all_images))
    kept.append(SourceImage("z", READERS[1], 4, 1))
    assert kept[-1].place == 4
