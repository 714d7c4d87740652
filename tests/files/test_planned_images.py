"""Planned images in a few bytes each: the same as a plain list of them, whatever is asked of them."""

from copy import deepcopy
from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.files.image_list import ImageList
from semdis_cli.files.planned_images import PlannedImages
from semdis_cli.records import WHOLE, PlannedImage, SourceImage, View
from semdis_cli.sources.files import ON_DISK

quick = settings(deadline=None)

BUCKETS = [(16, 16), (32, 16), (16, 32), (256, 256)]
keys = st.text("abä/\udcff", min_size=1, max_size=4)
sources = st.builds(
    lambda key, top, time, view: SourceImage(key, ON_DISK, f"{top}/{key}", len(key), time, time and time + 1, view),
    keys,
    st.sampled_from(["", "photos"]),
    st.one_of(st.none(), st.integers(0, 9)),
    st.sampled_from([WHOLE, View(16)]),
)
planned_lists = st.lists(st.builds(PlannedImage, sources, st.sampled_from(BUCKETS)), max_size=30)
cuts = st.tuples(st.integers(0, 30), st.integers(0, 30))


@quick
@given(plain=planned_lists, cut=cuts, data=st.data())
def test_they_are_what_a_list_of_them_is(plain: list[PlannedImage], cut: tuple[int, int], data: st.DataObject) -> None:
    planned = PlannedImages.of(iter(plain))
    assert (len(planned), list(planned)) == (len(plain), plain)
    assert planned == plain
    assert planned[cut[0] : cut[1]] == plain[cut[0] : cut[1]]
    assert [planned[place] for place in range(-len(plain), len(plain))] == plain + plain
    places = data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=9) if plain else st.just([]))
    assert planned.pick(places) == [plain[place] for place in places]
    assert planned.pick(places).pick(range(len(places))) == [plain[place] for place in places]


@quick
@given(plain=planned_lists)
def test_those_of_a_bucket_stay_in_their_order(plain: list[PlannedImage]) -> None:
    by_size = sorted(plain, key=lambda image: image.bucket)
    groups = {bucket: [image.source for image in images] for bucket, images in groupby(by_size, lambda one: one.bucket)}
    assert {bucket: list(images) for bucket, images in PlannedImages.of(plain).by_bucket()} == groups
    assert list(groups) == [bucket for bucket, _ in PlannedImages.of(plain).by_bucket()]


@quick
@given(plain=planned_lists, cut=cuts)
def test_some_of_them_go_to_another_process_without_the_others(plain: list[PlannedImage], cut: tuple[int, int]) -> None:
    some = PlannedImages.of(plain).pick(range(min(cut[0], len(plain)), min(cut[1], len(plain))))
    sent = deepcopy(some)  # as a process is sent it
    assert isinstance(sent.images, ImageList)
    assert [(image.source.key, image.bucket) for image in sent] == [(each.source.key, each.bucket) for each in some]


@quick
@given(plain=planned_lists)
def test_facts_of_picked_and_of_changed_images_are_theirs(plain: list[PlannedImage]) -> None:
    unique = list({image.source.key: image.source for image in plain}.values())
    changed = [SourceImage(image.key, ON_DISK, "elsewhere", 99, 5, 6) for image in unique[::3]]
    now = [next((one for one in changed if one.key == image.key), image) for image in unique]
    for images, expected in (
        (ImageList(unique).changed(changed), now),
        (ImageList(unique).changed(changed).pick(range(len(unique))), now),
        (ImageList(unique).pick(range(0, len(unique), 2)), unique[::2]),
        (ImageList(unique).pick(range(len(unique))[::-1]).changed(changed), now[::-1]),
    ):
        assert list(images) == expected
        assert list(images.facts()) == [(image.key, *image.stamp) for image in expected]
