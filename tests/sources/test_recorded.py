"""Images as plain values of JSON: those of every kind of source come back, and none beside the sources is opened."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semdis_cli.errors import UsageError
from semdis_cli.files.url import Location, Url
from semdis_cli.records import ColumnSource, SourceImage, View
from semdis_cli.sources.files import ON_DISK, read_bytes
from semdis_cli.sources.find import find_images
from semdis_cli.sources.named import FilePlace, NamedSources
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.recorded import images_from_json, images_to_json
from semdis_cli.sources.spool import Spool, peek_stdin
from semdis_cli.sources.tars import Tar
from semdis_cli.sources.views import in_views
from semdis_cli.store.checks import MALFORMED
from tests.extras import needs
from tests.sources.found import columns_of
from tests.sources.test_packed_tars import write_packed
from tests.sources.test_tars import png, write_tar
from tests.sources.test_zips import write_zip

MEMBERS = [
    ("a.png", png(1)),
    ("a.txt", b"a caption"),
    ("in.1/b.left.png", png(2)),
    ("in.1/b.left.txt", b"left"),
    ("in.1/b.txt", b"both"),
    ("in.1/b.right.png", png(3)),
    ("c.png", png(4)),
]


def make_folder(folder: Path) -> Sequence[Location]:
    for name in ("a.png", "b/c.png", os.fsdecode(b"b/\xff odd.png"), "b/ü.png"):
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / name).write_bytes(png(len(name)))
    return [folder / "photos"]


def make_files(folder: Path) -> Sequence[Location]:
    make_folder(folder)
    return [folder / "photos/a.png", folder / "photos/b/c.png"]


def make_several(folder: Path) -> Sequence[Location]:
    """A folder, a folder in it that is named first, a tar, and a file in the folder of both."""
    make_folder(folder)
    (folder / "x.png").write_bytes(png(7))
    return [folder / "photos/b", folder / "photos", write_tar(folder / "1.tar", MEMBERS), folder / "x.png"]


def make_tar(folder: Path) -> Sequence[Location]:
    return [write_tar(folder / "0.tar", MEMBERS)]


def make_packed(folder: Path) -> Sequence[Location]:
    return [write_packed(folder / "0.tar.gz", MEMBERS)]


def make_zip(folder: Path) -> Sequence[Location]:
    return [write_zip(folder / "0.zip", dict(MEMBERS))]


def make_edm_zip(folder: Path) -> Sequence[Location]:
    labels = json.dumps({"labels": [["a.png", 5], ["b.png", None]]}).encode()
    return [write_zip(folder / "0.zip", {"a.png": png(1), "b.png": png(2), "dataset.json": labels})]


def make_folder_of_tars(folder: Path) -> Sequence[Location]:
    (folder / "tars/deep").mkdir(parents=True)
    write_tar(folder / "tars/0.tar", MEMBERS)
    write_packed(folder / "tars/deep/1.tgz", MEMBERS)
    write_zip(folder / "tars/2.zip", dict(MEMBERS))
    return [folder / "tars"]


def make_parquet(folder: Path) -> Sequence[Location]:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": png(number), "path": None if number % 2 else f"{number}.png"} for number in range(1, 6)]
    table = pa.table({"image": pa.array(images), "text": [f"caption {number}" for number in range(1, 6)]})
    pq.write_table(table, folder / "0.parquet", row_group_size=2)
    return [folder / "0.parquet"]


def make_far(folder: Path) -> Sequence[Location]:
    needs("fsspec")
    name = f"memory://{folder.name}"
    for number, inside in enumerate(("photos/a.png", "photos/b/ü c.png", "x.png")):
        (Url(name) / inside).put_bytes(png(number + 1))
    (Url(name) / "0.tar").put_bytes(write_tar(folder / "0.tar", MEMBERS).read_bytes())
    (Url(name) / "tars/1.tar").put_bytes((folder / "0.tar").read_bytes())
    return [Url(f"{name}/{inside}") for inside in ("photos/", "x.png", "0.tar", "tars")]


KINDS = [
    make_folder,
    make_files,
    make_several,
    make_tar,
    make_packed,
    make_zip,
    make_edm_zip,
    make_folder_of_tars,
    make_parquet,
    make_far,
]


def through_json(images: Sequence[SourceImage], sources: NamedSources, *, has_beside: bool = True) -> Any:
    return json.loads(json.dumps(images_to_json(images, sources, has_beside=has_beside)))


def facts_of(images: Sequence[SourceImage]) -> list[object]:
    return [(image.key, *image.stamp, image.view, image.reader.locate(image), image.place) for image in images]


@pytest.mark.parametrize("make", KINDS)
def test_the_images_of_every_kind_come_back(make: Callable[[Path], Sequence[Location]], tmp_path: Path) -> None:
    named = make(tmp_path)
    sources, images = NamedSources(tuple(named)), find_images(named).images
    assert images
    again = images_from_json(through_json(images, sources), NamedSources(tuple(named)))
    assert facts_of(again) == facts_of(images)
    assert list(map(read_bytes, again)) == list(map(read_bytes, images))
    assert [image.reader.stamp(image) for image in again] == [image.stamp for image in images]
    for one, other in zip(again, images, strict=True):
        assert isinstance(one.reader, ColumnSource) == isinstance(other.reader, ColumnSource)
        if isinstance(one.reader, ColumnSource):
            assert columns_of(one) == columns_of(other)


@pytest.mark.parametrize("make", [make_folder, make_tar, make_parquet])
def test_views_come_back(make: Callable[[Path], Sequence[Location]], tmp_path: Path) -> None:
    named = make(tmp_path)
    sources = NamedSources(tuple(named))
    images, _ = in_views(find_images(named).images, [], [View(256, 1), View(256, 2), View(512, 1)])
    again = images_from_json(through_json(images, sources), sources)
    assert facts_of(again) == facts_of(images)
    assert list(map(read_bytes, again)) == list(map(read_bytes, images))


def test_what_lies_beside_images_is_left_out_where_nobody_needs_it(tmp_path: Path) -> None:
    named = make_tar(tmp_path)
    sources = NamedSources(tuple(named))
    value = through_json(find_images(named).images, sources, has_beside=False)
    assert "beside" not in value
    assert [columns_of(image) for image in images_from_json(value, sources)] == [{}, {}, {}, {}]


def test_a_relative_source_is_found_as_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path)
    make_tar(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in (".", "photos", "0.tar", "photos/../photos"):
        sources = NamedSources((Path(name),))
        images = find_images([Path(name)]).images
        assert facts_of(images_from_json(through_json(images, sources), sources)) == facts_of(images)


def test_what_is_alike_is_written_once(tmp_path: Path) -> None:
    named = make_tar(tmp_path)
    value = through_json(find_images(named).images, NamedSources(tuple(named)))
    assert [type(value[name]) for name in ("bytes", "mtimes", "ctimes", "root")] == [list, int, int, int]


def test_stdin_and_files_of_nobody_are_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    data.seek(0)
    spool = Spool(peek_stdin(data, is_only=True), tmp_path)
    with pytest.raises(UsageError, match="stdin can be read once"):
        images_to_json(find_images([Path("-")], stdin=spool).images, NamedSources((Path("-"),)), has_beside=True)
    with pytest.raises(UsageError, match="in none of the sources"):
        images_to_json(find_images(make_folder(tmp_path)).images, NamedSources((tmp_path / "other",)), has_beside=True)


# ---- Any names, and damaged or hostile values ----

PARTS = (st.binary(min_size=1, max_size=5).map(os.fsdecode) | st.text("a\n.ü\ue0ff", min_size=1, max_size=5)).filter(
    lambda part: part not in {".", ".."} and not {"/", "\0"} & {*part}
)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
TIMES = st.none() | st.integers(-(2**62), 2**62)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(NAMES, st.tuples(NAMES, st.integers(0, 2**62), TIMES, TIMES, st.booleans()), max_size=8),
    st.sampled_from(["", "x/", "x y/z/"]),
)
def test_any_names_places_and_times_come_back(files: dict[str, Any], prefix: str) -> None:
    folder = Path("/some/where")
    tar = Tar(folder / "0.tar", NamedPath.of_container(folder / "0.tar"))
    images = []
    for number, (inside, (other, num_bytes, mtime_ns, ctime_ns, is_in_tar)) in enumerate(sorted(files.items())):
        place = f"{folder}/{inside if number % 3 else other}"
        image = SourceImage(prefix + inside, ON_DISK, place, num_bytes, mtime_ns, ctime_ns)
        images.append(replace(image, reader=tar, place=num_bytes) if is_in_tar else image)
    sources = NamedSources((folder,))
    assert facts_of(images_from_json(through_json(images, sources), sources)) == facts_of(images)


BAD_FIELDS = [
    ("roots", 0, {"reader": 0, "start": "../", "cut": 0}),
    ("roots", 0, {"reader": 0, "start": "/etc/", "cut": 0}),
    ("roots", 0, {"reader": 0, "start": "b/../../", "cut": 0}),
    ("roots", 0, {"reader": 0, "start": "\0", "cut": 0}),
    ("roots", 0, {"reader": 0, "start": "..\n/../", "cut": 0}),
    ("roots", 0, {"reader": 9, "start": "", "cut": 0}),
    ("roots", 0, {"reader": -1, "start": "", "cut": 0}),
    ("roots", 0, {"reader": 0}),
    ("readers", 0, {"kind": "tar", "source": 0, "inside": "a.tar"}),
    ("readers", 0, {"kind": "file", "source": 1}),
    ("readers", 0, {"kind": "file", "source": -1}),
    ("readers", 0, {"kind": "file", "source": True}),
    ("readers", 0, {"kind": "file", "source": 0, "more": 1}),
    ("readers", 0, {"kind": "far", "source": 0}),
    ("readers", 0, {"kind": "spool", "source": 0}),
    ("readers", 0, {"kind": ["file"], "source": 0}),
    ("readers", 0, {}),
    ("keys", 0, "../a.png"),
    ("keys", 0, "/a.png"),
    ("keys", 0, ""),
    ("keys", 0, 3),
    ("mtimes", 0, 1.5),
    ("mtimes", 0, 1 << 70),
    ("ctimes", 0, "1"),
]


@pytest.mark.parametrize(("name", "at", "value"), BAD_FIELDS)
def test_a_value_that_leads_out_of_the_sources_or_is_none_is_refused(
    tmp_path: Path, name: str, at: int, value: object
) -> None:
    named = make_folder(tmp_path)
    sources = NamedSources(tuple(named))
    fields = through_json(find_images(named).images, sources)
    fields[name] = fields[name] if isinstance(fields[name], list) else [fields[name]] * 4
    fields[name][at] = value
    with pytest.raises(MALFORMED):
        images_from_json(fields, sources)


@pytest.mark.parametrize("inside", ["../0.tar", "/0.tar", "a/../../0.tar", "./0.tar", "a//0.tar", "a/", "\0"])
@pytest.mark.parametrize("kind", ["tar", "packed_tar"])
def test_a_container_beside_the_sources_is_refused(tmp_path: Path, inside: str, kind: str) -> None:
    sources = NamedSources((tmp_path,))
    with pytest.raises(ValueError, match="leads out of its source"):
        sources.reader({"kind": kind, "source": 0, "inside": inside})
    with pytest.raises(ValueError, match="leads out of its source"):
        sources.path(FilePlace(0, inside))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_damaged_values_are_refused_or_lead_to_nothing_beside_the_sources(data: st.DataObject) -> None:
    folder = Path("/some/where")
    tar = Tar(folder / "0.tar", NamedPath.of_container(folder / "0.tar"))
    images = [
        SourceImage("a.png", ON_DISK, f"{folder}/a.png", 5, 6, 7),
        SourceImage("b.png", tar, 512, 5, 6, 7),
        SourceImage("c.png", tar, 2048, 5, 6, 8),
    ]
    sources = NamedSources((folder,))
    fields = through_json(images, sources) | {"beside": {"1": [["txt", 1024, 9]]}}
    spot: Any = fields
    for _ in range(data.draw(st.integers(0, 3))):
        inner = list(spot.values()) if isinstance(spot, dict) else spot
        inner = [each for each in inner if isinstance(each, dict | list) and each]
        spot = data.draw(st.sampled_from(inner)) if inner else spot
    name = data.draw(st.sampled_from(sorted(spot) if isinstance(spot, dict) else range(len(spot))))
    spot[name] = data.draw(JSON)
    try:
        again = images_from_json(fields, sources)
        for image in again:
            assert os.path.normpath(image.reader.locate(image)[0]).startswith(f"{folder}")
            assert ".." not in image.reader.locate(image)[0]
            if isinstance(image.reader, Tar):
                image.reader.samples.beside(image.place)
    except MALFORMED:
        return
