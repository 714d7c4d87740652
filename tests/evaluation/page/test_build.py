"""A page as a file: what lies in it, what beside it, and what is refused before anything is done."""

import html
import json
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from semdis_cli.errors import NoSpaceError, StoreError, UsageError
from semdis_cli.evaluation.page import document
from semdis_cli.evaluation.page.build import check_report_path, write_page
from semdis_cli.evaluation.page.contents import Page, PageImage
from semdis_cli.files.late import LateFiles
from semdis_cli.images.images import read_image
from tests.evaluation.page.pages import make_page

EVERYTHING = 1 << 30


def test_pictures_beside_a_page_are_safe_before_they_have_their_place(
    page: "Page", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[bool] = []
    settle = LateFiles.settle

    def noted(self: LateFiles) -> None:
        places.append((tmp_path / "report-files").exists())
        settle(self)

    monkeypatch.setattr(LateFiles, "settle", noted)
    assert write_page(page, tmp_path / "report.html", embed_bytes=0).folder == tmp_path / "report-files"
    assert places == [False]


class Read(HTMLParser):
    """The scripts of a page, as a browser finds them, by their ids; and its elements in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: dict[str, str] = {}
        self.tags: list[str] = []
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = (dict(attrs).get("id") or "") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.blocks[self._inside] = self.blocks.get(self._inside, "") + data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return make_page(tmp_path / "pictures", num_images=5)


def read(path: Path) -> Read:
    return Read(path.read_text(encoding="utf-8"))


def test_a_page_is_one_file_up_to_a_size(page: Page, tmp_path: Path) -> None:
    written = write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING)
    assert written.folder is None
    assert written.num_bytes == written.path.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["report.html"]
    assert not (tmp_path / "report-files").exists()
    blocks = read(written.path).blocks
    assert {f"{number:06d}-{word}" for number in range(5) for word in ("thumb", "original", "pca", "0", "1")} < set(
        blocks
    )


def test_the_size_is_that_of_all_of_the_file(page: Page, tmp_path: Path) -> None:
    whole = write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING).num_bytes
    # The policy of a page with a folder is a few bytes longer.
    assert write_page(page, tmp_path / "b.html", embed_bytes=whole + 100).folder is None
    beside = write_page(page, tmp_path / "c.html", embed_bytes=whole - 1)
    assert beside.folder == tmp_path / "c-files"
    assert beside.num_bytes < whole


def test_above_it_pictures_lie_beside_it_and_then_thumbnails_too(page: Page, tmp_path: Path) -> None:
    few = write_page(page, tmp_path / "report.html", embed_bytes=0)
    assert few.folder is not None
    names = {path.name for path in few.folder.iterdir()}
    assert {f"{number:06d}-{word}" for number in range(5) for word in ("thumb.jpg", "original.png", "1.png")} < names
    assert not any(name.endswith("-thumb") for name in read(few.path).blocks)
    for number, image in enumerate(page.images):
        assert (few.folder / f"{number:06d}-original.png").read_bytes() == image.original.read_bytes()
    thumbnail_bytes = sum(path.stat().st_size for path in few.folder.glob("*-thumb.jpg"))
    enough = few.num_bytes + 4 * thumbnail_bytes // 3 + 1000
    more = write_page(page, tmp_path / "report.html", embed_bytes=enough)
    assert more.folder is not None
    assert not any(path.name.endswith("thumb.jpg") for path in more.folder.iterdir())
    assert sum(name.endswith("-thumb") for name in read(more.path).blocks) == 5


def test_thumbnails_are_small_pictures_of_the_originals(page: Page, tmp_path: Path) -> None:
    folder = write_page(page, tmp_path / "report.html", embed_bytes=0).folder
    assert folder is not None
    assert max(read_image((folder / "000000-thumb.jpg").read_bytes()).size) == 192
    assert (
        read_image((folder / "000001-thumb.jpg").read_bytes()).size == page.images[1].size
    )  # smaller ones as they are


@pytest.mark.parametrize("name", ["a b", "100%", "a#b?c", "naïve", "it's", "<b>", 'say "hi"'])
def test_the_folder_is_found_whatever_its_name(page: Page, tmp_path: Path, name: str) -> None:
    written = write_page(page, tmp_path / f"{name}.html", embed_bytes=0)
    url = json.loads(read(written.path).blocks["contents"])["folder"]
    assert re.fullmatch(r"[\w.~%-]+", url, re.ASCII)
    assert unquote(url) == f"{name}-files"


@pytest.mark.parametrize("embed_bytes", [0, EVERYTHING])
def test_an_older_page_is_replaced_with_its_folder(page: Page, tmp_path: Path, embed_bytes: int) -> None:
    path = tmp_path / "report.html"
    write_page(page, path, embed_bytes=0)
    fewer = replace(page, images=page.images[:1], title="another")
    folder = write_page(fewer, path, embed_bytes=embed_bytes).folder
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["pictures", *(["report-files"] if folder else []), "report.html"]
    if folder:
        assert {path.name[:6] for path in folder.iterdir()} == {"000000", ".semdi"}
    assert json.loads(read(path).blocks["contents"])["title"] == "another"


def test_equal_pages_have_equal_bytes(page: Page, tmp_path: Path) -> None:
    first = write_page(page, tmp_path / "a.html", embed_bytes=EVERYTHING).path.read_bytes()
    assert write_page(page, tmp_path / "b.html", embed_bytes=EVERYTHING).path.read_bytes() == first


HOSTILE = [
    "<script>alert(1)</script>.jpg",
    "</script><img src=x onerror=alert(1)>.jpg",
    "<!--<script>.jpg",
    "\"quotes\" & 'quotes'.jpg",
    "line\u2028separator\u2029.jpg",
    "\u202egpj.exe",
    "n" * 3000 + ".jpg",
    "undecodable\udcff.jpg",
    "$title $policy ${script}.jpg",
]


def test_names_cannot_become_markup(page: Page, tmp_path: Path) -> None:
    images = [replace(image, key=key) for image, key in zip([*page.images] * 2, HOSTILE, strict=False)]
    hostile = replace(
        page,
        title=HOSTILE[1],
        images=images,
        failures=[(key, key) for key in HOSTILE],
        provenance=[(HOSTILE[0], HOSTILE[1])],
    )
    plain = write_page(replace(page, images=images[:0]), tmp_path / "a.html", embed_bytes=EVERYTHING)
    written = write_page(hostile, tmp_path / "b.html", embed_bytes=0)
    found = read(written.path)
    assert found.tags == read(plain.path).tags
    assert [row["key"] for row in json.loads(found.blocks["images"])] == [
        key.replace("\udcff", "\ue0ff") for key in HOSTILE
    ]
    text = written.path.read_text(encoding="utf-8")
    assert f"<title>{html.escape(HOSTILE[1])}</title>" in text
    assert "\u2028" not in text


def test_no_figure_is_not_a_number(page: Page, tmp_path: Path) -> None:
    image = page.images[0]
    versions = (replace(image.versions[0], figures={"psnr_db": float("nan")}), *image.versions[1:])
    odd = replace(page, images=[replace(image, versions=versions)])
    written = write_page(odd, tmp_path / "report.html", embed_bytes=EVERYTHING)
    [row] = json.loads(read(written.path).blocks["images"], parse_constant=pytest.fail)
    assert row["figures"][0] == [None, None]


def test_a_page_without_images_is_a_page(page: Page, tmp_path: Path) -> None:
    written = write_page(replace(page, images=[]), tmp_path / "report.html", embed_bytes=EVERYTHING)
    assert json.loads(read(written.path).blocks["images"]) == []


def test_only_the_first_failures_are_listed_and_all_counted(page: Page, tmp_path: Path) -> None:
    failures = [(f"{number}.jpg", "damaged") for number in range(1500)]
    written = write_page(replace(page, failures=failures), tmp_path / "report.html", embed_bytes=EVERYTHING)
    contents = json.loads(read(written.path).blocks["contents"])
    assert (len(contents["failures"]), contents["num_failures"]) == (1000, 1500)


def test_on_a_full_disk_it_says_so_in_a_line(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("r+b") as full:
        monkeypatch.setattr("semdis_cli.files.disk.unnamed_file", lambda _: full)
        with pytest.raises(NoSpaceError) as caught:
            write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING)
    assert caught.value.place == str(tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


# --- What is refused ---


def make_plain_file(path: Path) -> Path:
    path.write_bytes(b"mine")
    return path / "report.html"


def make_folder_of_that_name(path: Path) -> Path:
    report = path.with_suffix(".html")
    report.mkdir()
    return report


def make_own_page(path: Path) -> Path:
    report = path.with_suffix(".html")
    report.write_text("<!doctype html><title>mine</title>")
    return report


def make_own_files(path: Path) -> Path:
    folder = path.with_name(f"{path.name}-files")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return path.with_suffix(".html")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_plain_file, "Not a directory|not a folder"),
        (make_folder_of_that_name, "a folder of this name is there"),
        (make_own_page, "is there already, and is no page"),
        (make_own_files, "in the way of the page's pictures"),
        (lambda path: path.with_suffix(".txt"), "ends in .html"),
        (lambda path: path.with_name("n" * 300 + ".html"), "File name too long"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_run(
    tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    report = make(tmp_path / "there")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=reason) as caught:
        check_report_path(report)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_does_not_lie_in_a_set_of_latents(finished_set: Path) -> None:
    with pytest.raises(UsageError, match="a set of latents"):
        check_report_path(finished_set / "report.html")


def test_a_path_that_can_be_written_is_left_as_it_is(page: Page, tmp_path: Path) -> None:
    check_report_path(tmp_path / "some" / "folders" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    (tmp_path / "report.html").touch()
    check_report_path(tmp_path / "report.html")
    written = write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING)
    before = written.path.read_bytes()
    check_report_path(written.path)
    assert written.path.read_bytes() == before


@pytest.mark.parametrize("embed_bytes", [0, EVERYTHING])
def test_a_picture_that_is_gone_leaves_the_older_page(page: Page, tmp_path: Path, embed_bytes: int) -> None:
    path = tmp_path / "report.html"
    write_page(page, path, embed_bytes=embed_bytes)
    before = {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    gone: PageImage = page.images[3]
    gone.versions[1].picture.rename(tmp_path / "elsewhere.png")
    with pytest.raises(StoreError, match=r"cannot be read") as caught:
        write_page(replace(page, title="another"), path, embed_bytes=embed_bytes)
    assert caught.value.place == str(gone.versions[1].picture)
    after = {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    del before[gone.versions[1].picture], after[tmp_path / "elsewhere.png"]
    assert after == before


def test_a_damaged_picture_is_named(page: Page, tmp_path: Path) -> None:
    damaged = page.images[2].original
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(StoreError, match="PNG") as caught:
        write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING)
    assert caught.value.place == str(damaged)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_each_script_of_the_room_is_part_of_the_page(page: Page, tmp_path: Path) -> None:
    text = write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING).path.read_text(encoding="utf-8")
    room = Path(document.__file__).parent
    scripts = [*room.glob("*.js"), room / "page.css"]
    assert len(scripts) > 5
    assert all(script.read_text(encoding="utf-8") in text for script in scripts)
    assert "http:" not in re.sub(r"http://www\.w3\.org/2000/svg", "", text)
    assert "https:" not in text


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
from semdis_cli.evaluation.page.build import write_page
from tests.evaluation.page.pages import make_page
folder = Path(sys.argv[1])
page = make_page(folder / "pictures", 5)
image = page.images[4]
os.mkfifo(folder / "pictures" / "pipe")  # nobody writes: whoever reads it waits
versions = (replace(image.versions[0], picture=folder / "pictures" / "pipe"), *image.versions[1:])
page = replace(page, images=[*page.images[:4], replace(image, versions=versions)])
write_page(page, folder / "report.html", embed_bytes=0)
"""


def test_what_a_killed_run_has_left_is_removed_by_the_next(page: Page, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], cwd=Path(__file__).parents[3])
    end = time.monotonic() + 60
    while not [*tmp_path.glob(".*/000003-1.png")]:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "report.html").exists()
    write_page(page, tmp_path / "report.html", embed_bytes=0)
    left = {found.name for found in tmp_path.iterdir() if found.is_dir()}
    assert left == {"pictures", "report-files"}


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    peaks, sizes = [], []
    for num_images in (10, 60):
        page = make_page(tmp_path / str(num_images), num_images)
        tracemalloc.start()
        sizes.append(write_page(page, tmp_path / f"{num_images}.html", embed_bytes=EVERYTHING).num_bytes)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sizes[1] > sizes[0] + 10_000_000
    assert peaks[1] < peaks[0] + 1_500_000
