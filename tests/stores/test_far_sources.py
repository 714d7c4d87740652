"""Images in stores: which are found, under which keys, what is read of them, and how a change is noticed."""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semdis_cli.errors import MissingExtraError, UsageError
from semdis_cli.files import stores
from semdis_cli.files.stores import pages_below, without_secrets
from semdis_cli.files.url import Location, Url, parse_location
from semdis_cli.images import loader
from semdis_cli.records import ColumnSource, LoadedImage
from semdis_cli.settings import GeometrySettings, LoadSettings
from semdis_cli.sources.files import hash_image, read_bytes
from semdis_cli.sources.find import FoundImages, find_images
from semdis_cli.sources.input_rules import InputRules, Pattern
from tests.cli.conftest import PHOTOS, Run
from tests.extras import needs
from tests.store import contents, lasting
from tests.stores import S3Server, free_port

ODD_NAMES = (
    "a1.png",
    "a[1].png",
    "b c.png",
    "d#e.png",
    "f%20g.png",
    "h?i.png",
    "k*.png",
    "sub/{a,b}.png",
    "ü/日本.png",
)


def png(colour: int, side: int = 24) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (colour % 256, colour // 256, 2)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def found(*urls: str | Path, rules: InputRules | None = None) -> FoundImages:
    sources: list[Location] = [parse_location(str(url)) for url in urls]
    return find_images(sources, rules=rules or InputRules())


def keys(*urls: str | Path) -> list[str]:
    return [image.key for image in found(*urls).images]


# ---- What is found ----


def test_every_object_is_found_under_its_path_and_read_as_itself(s3: S3Server) -> None:
    for number, name in enumerate(ODD_NAMES):
        s3.put(f"odd/photos/{name}", png(number))
    s3.put("odd/photos-2/other.png", png(99))
    images = found("s3://odd/photos/").images
    assert [image.key for image in images] == sorted(ODD_NAMES)
    assert {image.key: read_bytes(image) for image in images} == {
        name: png(number) for number, name in enumerate(ODD_NAMES)
    }
    with images[0].reader.open(images[0]) as file:  # piecewise, as headers are read
        assert [file.read(8), file.seek(-4, io.SEEK_END), file.read()] == [png(0)[:8], len(png(0)) - 4, png(0)[-4:]]
    assert keys("s3://odd/photos") == sorted(ODD_NAMES)


def test_a_folder_of_many_pages_is_found_whole_and_a_page_is_held_at_a_time(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_PAGE_FILES", 3)
    names = [f"{number:04d}.png" for number in range(7)]
    for name in names:
        s3.put(f"pages/photos/{name}", b"")
    pages = list(pages_below("s3://pages/photos", "pages/photos"))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert keys("s3://pages/photos/") == names
    assert keys("s3://pages/") == [f"photos/{name}" for name in names]


def test_a_folder_of_a_name_with_brackets_is_no_pattern(s3: S3Server) -> None:
    s3.put("brackets/a[1]/x.png", png(1))
    s3.put("brackets/a1/y.png", png(2))
    assert keys("s3://brackets/a[1]") == ["x.png"]
    assert keys("s3://brackets/a[1]/x.png") == ["x.png"]


def test_what_is_no_image_is_passed_over_and_counted(s3: S3Server) -> None:
    for name in ("a.png", "a.txt", ".hidden.png", "drafts/b.png", "folder/", "c//d.png", "e/../f.png"):
        s3.put(f"mixed/{name}", b"x")
    listed = found("s3://mixed/", rules=InputRules(exclude=(Pattern("drafts"),)))
    assert [image.key for image in listed.images] == ["a.png"]
    assert listed.passed_over == {"no images by suffix or content": 1, "hidden": 1, "excluded": 1}
    assert [failure.key for failure in listed.failures] == ["c//d.png", "e/../f.png"]


def test_several_sources_are_told_apart_by_their_names(s3: S3Server, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(png(1))
    for bucket in ("one", "two"):
        s3.put(f"{bucket}/photos/x.png", png(2))
    assert keys("s3://one/photos", "s3://two/photos/") == ["one/photos/x.png", "two/photos/x.png"]
    assert keys("s3://one/photos", tmp_path / "photos")[0].endswith("photos/x.png")
    with pytest.raises(UsageError, match=r"s3://one/photos/x.png and s3://two/photos/x.png have the same key x.png"):
        found("s3://one/photos/x.png", "s3://two/photos/x.png")


def tar_of_five() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(5):
            data = png(number, side=40 + number)
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["s3", "web"])
def test_a_tar_is_listed_and_read_in_place(s3: S3Server, kind: str) -> None:
    s3.put("tars/[0].tar", tar_of_five(), acl="public-read")
    images = found("s3://tars/[0].tar" if kind == "s3" else f"{s3.address}/tars/[0].tar").images
    assert [image.key for image in images] == [f"[0]/{number}.png" for number in range(5)]
    assert [read_bytes(image) for image in images] == [png(number, side=40 + number) for number in range(5)]
    assert all(image.ctime_ns for image in images)


def test_a_compressed_tar_is_read_in_place_too(s3: S3Server) -> None:
    s3.put("packed/a.tar.gz", gzip.compress(tar_of_five()))
    images = found("s3://packed/a.tar.gz").images
    assert [image.key for image in images] == [f"a.tar/{number}.png" for number in range(5)]
    assert [read_bytes(image) for image in reversed(images)] == [
        png(number, side=40 + number) for number in (4, 3, 2, 1, 0)
    ]


def test_braces_stand_for_many_tars(s3: S3Server, run: Run, tiny: Path, tmp_path: Path) -> None:
    for number in range(3):
        s3.put(f"braces/{number:05d}.tar", tar_of_five())
        (tmp_path / f"{number:05d}.tar").write_bytes(tar_of_five())
    assert run("encode", "s3://braces/{00000..00002}.tar", "-o", "there", "--model", tiny, "-q").code == 0
    assert run("encode", "{00000..00002}.tar", "-o", "here", "--model", tiny, "-q").code == 0
    here, there = (contents(tmp_path / name / "shards") for name in ("here", "there"))
    assert len(here) >= 1
    assert there == here


def test_a_plan_of_what_lies_in_a_store_is_taken_up_by_parts(
    s3: S3Server, run: Run, tiny: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(ODD_NAMES):
        s3.put(f"planned/photos/{name}", png(number))
    for number in range(2):
        s3.put(f"planned/{number}.tar", tar_of_five())
    sources = ("s3://planned/photos/", "s3://planned/{0..1}.tar")
    options = ("--model", tiny, "--shard-images", "4", "-q")
    assert run("encode", *sources, "-o", "plain", *options).code == 0
    assert run("plan", *sources, "-o", "latents", *options).code == 0
    s3.put("planned/photos/later.png", png(70))  # nobody lists anew
    assert [run("encode", *sources, "-o", "latents", *options, "--part", part).code for part in ("1/2", "0/2")] == [
        0,
        0,
    ]
    assert lasting(tmp_path / "latents") == lasting(tmp_path / "plain")


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_listed_by_its_directory_and_read_in_place(s3: S3Server, method: int) -> None:
    members = {f"{number}.png": png(number, side=60 + 60 * number) for number in range(6)}  # beyond 256 KiB, too
    s3.put(
        "zips/[1].zip", zip_of(members | {"0.txt": b"a caption", "dataset.json": b'{"labels": [["1.png", 7]]}'}, method)
    )
    images = found("s3://zips/[1].zip").images
    assert {image.key: read_bytes(image) for image in images} == {f"[1]/{name}": members[name] for name in members}
    assert all(image.ctime_ns for image in images)
    columns = [image.reader.columns(image) for image in images if isinstance(image.reader, ColumnSource)]
    assert columns[:2] == [{"txt": b"a caption"}, {"label": 7}]


def test_a_parquet_is_read_by_its_row_groups(s3: S3Server) -> None:
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = [png(number, side=50) for number in range(40)]
    rows = [{"image": {"bytes": each, "path": f"{at}.png"}, "text": str(at)} for at, each in enumerate(data)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=7)
    s3.put("parquets/train.parquet", file.getvalue())
    images = found("s3://parquets/train.parquet").images
    assert [image.key for image in images] == sorted(f"train/{number}.png" for number in range(40))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_bytes, images)) == [data[int(image.key[6:-4])] for image in images]
    assert isinstance(images[5].reader, ColumnSource)
    assert images[5].reader.columns(images[5])["text"] == images[5].key[6:-4]


def test_a_folder_of_tars_is_searched_unless_images_lie_beside_them(s3: S3Server) -> None:
    for name in ("00000.tar", "more/00001.tar"):
        s3.put(f"shards/set/{name}", tar_of_five())
    s3.put("shards/set/more/2.zip", zip_of({"x.png": png(1)}))
    s3.put("shards/set/more/cut.zip", zip_of({"x.png": png(1)})[:-9])
    s3.put("shards/set/more/metadata.parquet", b"no source")
    s3.put("shards/set/00000.parquet", b"the table of its tar")
    listed = found("s3://shards/set")
    tars = [f"{tar}/{number}.png" for tar in ("00000", "more/00001") for number in range(5)]
    assert [image.key for image in listed.images] == [*tars, "more/2/x.png"]
    assert {failure.key for failure in listed.failures} == {"more/cut.zip"}
    assert read_bytes(listed.images[7]) == png(2, side=42)
    s3.put("shards/set/photo.png", png(1))
    listed = found("s3://shards/set")
    assert [image.key for image in listed.images] == ["photo.png"]
    assert listed.passed_over["archives beside images"] == 5


def test_a_tar_that_was_cut_off_costs_what_is_behind(s3: S3Server) -> None:
    s3.put("tars/cut.tar", tar_of_five()[:20_000])
    cut = found("s3://tars/cut.tar")
    assert [image.key for image in cut.images] == ["cut/0.png", "cut/1.png", "cut/2.png"]
    assert [failure.key for failure in cut.failures] == ["cut.tar"]


def test_an_image_is_read_from_a_web_server(s3: S3Server) -> None:
    s3.put("web/a[1] b.png", png(3), acl="public-read")
    url = f"{s3.address}/web/a[1] b.png?token=hidden"
    [image] = found(url).images
    assert (image.key, read_bytes(image)) == ("a[1] b.png", png(3))
    assert image.ctime_ns is not None
    other = f"{s3.address}/web/folder/a[1] b.png"
    s3.put("web/folder/a[1] b.png", png(3), acl="public-read")
    with pytest.raises(UsageError, match="have the same key") as caught:
        found(url, other)
    assert str(caught.value).startswith(f"{s3.address}/web/a[1] b.png and {other} have the same key a[1] b.png")
    assert len(found(url, url).images) == 1
    with pytest.raises(UsageError, match="a web server lists no files: name the images and tars themselves"):
        found(f"{s3.address}/web/")
    s3.put("web/private.png", png(3))
    with pytest.raises(UsageError, match=r"private.png: cannot be reached \(403"):
        found(f"{s3.address}/web/private.png")


def test_memory_is_a_store_too() -> None:
    needs("fsspec")
    Url("memory://photos/a.png").put_bytes(png(1))
    [image] = found("memory://photos").images
    assert (image.key, read_bytes(image)) == ("a.png", png(1))


def test_other_commands_read_them_too(s3: S3Server, run: Run, tiny: Path, tmp_path: Path) -> None:
    for number in range(3):
        s3.put(f"both/photos/{number}.png", png(number))
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{number}.png").write_bytes(png(number))
    for source, output in (("photos", "here"), ("s3://both/photos", "there")):
        assert run("roundtrip", source, "-o", output, "--model", tiny, "-q").code == 0
    here, there = (contents(tmp_path / name) for name in ("here", "there"))
    assert here.pop("report.json") != there.pop("report.json")  # they have times
    assert there == here
    assert run("encode", "photos", "-o", "latents", "--model", tiny, "-q").code == 0
    assert run("verify", "latents", "--against", "s3://both/photos", "--data", "-q").code == 0
    s3.put("both/photos/1.png", png(9))
    assert run("verify", "latents", "--against", "s3://both/photos", "--data", "-q").code == 4


def test_what_is_fetched_ahead_is_bounded(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        s3.put(f"ahead/{number}.png", png(number))
    monkeypatch.setattr(loader, "_MOST_EXPECTED_BYTES", 5 * len(png(0)))
    with loader.Loader(LoadSettings(GeometrySettings(size=16)), 16, 2) as reading:
        planned, _ = reading.plan(found("s3://ahead/").images)
        for _ in range(3):
            reading.expect(planned)
            assert len(reading._expected) == 5
            loaded = reading.load_all(planned)
            assert [image.record.key for image in loaded if isinstance(image, LoadedImage)] == [
                f"{number}.png" for number in range(9)
            ]
            assert (reading._expected, reading._expected_bytes) == ({}, 0)


def test_captions_come_with_what_lies_in_a_container(s3: S3Server, run: Run, tiny: Path, tmp_path: Path) -> None:
    captioned = {f"{number}.{suffix}": data for number in range(3) for suffix, data in (
        ("png", png(number)), ("txt", f"picture {number}".encode()), ("cls", b"%d" % number)
    )}  # fmt: skip
    s3.put("captions/a.zip", zip_of(captioned))
    assert run("encode", "s3://captions/a.zip", "-o", "latents", "--model", tiny, "-q").code == 0
    rows = [json.loads(line) for line in (tmp_path / "latents" / "index.jsonl").read_bytes().splitlines()]
    assert [row["columns"] for row in rows] == [{"caption": f"picture {at}", "label": at} for at in range(3)]
    for name, data in captioned.items():
        s3.put(f"captions/folder/{name}", data)
    table = "".join(json.dumps({"file_name": f"{at}.png", "caption": f"row {at}"}) + "\n" for at in range(3))
    (tmp_path / "table.jsonl").write_text(table)
    arguments = ("s3://captions/folder", "--model", tiny, "--table", "table.jsonl", "-q")
    assert run("encode", *arguments, "-o", "tabled").code == 0
    rows = [json.loads(line) for line in (tmp_path / "tabled" / "index.jsonl").read_bytes().splitlines()]
    assert [row["columns"] for row in rows] == [{"caption": f"row {at}"} for at in range(3)]


# ---- Changes ----


def test_another_content_is_noticed_and_the_same_one_is_kept(
    s3: S3Server, run: Run, tiny: Path, tmp_path: Path
) -> None:
    for number in range(4):
        s3.put(f"growing/{number}.png", png(number))

    def encode() -> dict[str, int]:
        done = run("encode", "s3://growing/", "-o", "latents", "--model", tiny, "--json", "-q")
        assert done.code == 0, done.stderr
        report = json.loads(done.stdout)
        return {name: report[name] for name in ("unchanged", "changed", "removed")} | {
            "encoded": report["images"]["this_run"]
        }

    assert encode() == {"unchanged": 0, "changed": 0, "removed": 0, "encoded": 4}
    assert encode() == {"unchanged": 4, "changed": 0, "removed": 0, "encoded": 0}
    s3.put("growing/0.png", png(0))  # written again: its time is another, its ETag is not
    s3.put("growing/1.png", png(700))  # of the same size, and maybe within the same second
    s3.put("growing/9.png", png(9))
    s3.remove("growing/2.png")
    assert encode() == {"unchanged": 2, "changed": 1, "removed": 1, "encoded": 2}
    assert encode() == {"unchanged": 4, "changed": 0, "removed": 1, "encoded": 0}
    rows = [json.loads(line) for line in (tmp_path / "latents" / "index.jsonl").read_bytes().splitlines()]
    assert [row["key"] for row in rows if row["status"] == "ok"] == ["0.png", "1.png", "3.png", "9.png"]


def test_an_object_that_changes_its_size_after_the_listing_is_not_read_halfway(s3: S3Server) -> None:
    s3.put("changing/a.png", png(1))
    s3.put("changing/b.png", png(1))
    images = found("s3://changing/").images
    s3.put("changing/a.png", png(1) + b"more")
    s3.put("changing/b.png", png(1)[:-1])
    for image in images:
        with pytest.raises(OSError, match="other bytes than were asked for"):
            read_bytes(image)
        with pytest.raises(OSError, match="other bytes than were asked for"):
            hash_image(image)


def test_a_tar_that_was_written_anew_is_compared_by_content(s3: S3Server, run: Run, tiny: Path, tmp_path: Path) -> None:
    def encode() -> tuple[int, int]:
        report = json.loads(run("encode", "s3://tars/a.tar", "-o", "latents", "--model", tiny, "--json", "-q").stdout)
        return report["unchanged"], report["images"]["this_run"]

    s3.put("tars/a.tar", tar_of_five())
    assert [encode(), encode()] == [(0, 5), (5, 0)]
    s3.put("tars/a.tar", tar_of_five().replace(png(2, side=42), png(600, side=42)))
    assert [encode(), encode()] == [(4, 1), (5, 0)]
    assert (tmp_path / "latents" / "manifest.json").exists()


# ---- What cannot be ----


@pytest.mark.parametrize("url", ["s3://no-such-bucket/x/", "s3://there/no-such-folder", "s3://there/no-such-folder/"])
def test_what_is_not_there_is_one_line(s3: S3Server, run: Run, tiny: Path, url: str) -> None:
    s3.put("there/a.png", png(1))
    done = run("encode", url, "-o", "latents", "--model", tiny)
    assert (done.code, done.stderr) == (2, f"semdis: {url.rstrip('/')}: no such file or folder\n")


def test_a_store_that_lacks_its_package_says_what_to_install() -> None:
    with pytest.raises(MissingExtraError) as caught:
        found("adl://x/photos")
    assert str(caught.value) == "adl://x/photos: adl:// needs adlfs: pip install adlfs"
    with pytest.raises(UsageError, match=r"nope://x: cannot be opened \(Protocol not known: nope\)"):
        found("nope://x")
    with pytest.raises(UsageError, match="give the path of a local file as it is, without file://"):
        found("file:///photos")


def test_fsspec_that_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError) as caught:
        found("s3://without-fsspec/photos")
    assert str(caught.value) == "s3://without-fsspec/photos: URLs need fsspec: pip install 'semdis[remote]' s3fs"


@pytest.mark.parametrize(
    "arguments", [("attach", "s3://bucket/latents", "a.csv"), ("attach", "latents", "s3://bucket/a.csv")]
)
def test_columns_are_attached_to_sets_on_a_disk_alone(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert "takes no URL" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("decode", "latents"), ("export", "latents"), ("roundtrip", "photos")])
def test_what_cannot_be_written_to_a_url_is_refused(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, "-o", "s3://bucket/x")
    assert done.code == 2
    assert "takes no URL" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_secrets_of_a_url_are_never_told(run: Run, tiny: Path) -> None:
    done = run(
        "encode", f"http://me:pass1@127.0.0.1:{free_port()}/a.png?sig=pass2&x=1", "-o", "latents", "--model", tiny
    )
    assert done.code == 2
    assert "pass" not in done.stderr
    assert re.fullmatch(r"semdis: http://127\.0\.0\.1:\d+/a\.png: cannot be reached \(Connect.*\)\n", done.stderr)


SECRET = st.text(st.characters(codec="ascii", exclude_characters="/@?'\") ", categories=["L", "N", "P"]), min_size=3)


@given(SECRET, SECRET, st.sampled_from(["", "sig=", "a=b&c="]), st.text("abc ", max_size=9))
def test_no_secret_survives_in_any_text(password: str, signature: str, name: str, words: str) -> None:
    text = f"{words} GET https://me:XX{password}XX@host/a.png?{name}XX{signature}XX {words}"
    assert "XX" not in without_secrets(text)
    assert without_secrets(text).strip() == f"{words} GET https://host/a.png {words}".strip()


@pytest.mark.slow
def test_nothing_of_fsspec_is_loaded_without_a_url(tiny: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from semdis_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "loaded = {'fsspec', 's3fs', 'aiohttp', 'botocore'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "encode", PHOTOS, "-o", "latents", "--model", tiny, "--size", "16", "-q"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
