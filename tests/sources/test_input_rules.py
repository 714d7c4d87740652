"""Patterns of names and paths, and what is passed over by its name, in folders and in tars alike."""

import io
import tarfile
from pathlib import Path

import pytest

from semdis_cli.errors import UsageError
from semdis_cli.sources.find import FoundImages, find_images
from semdis_cli.sources.input_rules import InputRules, Pattern, file_kind, is_plain_name
from tests.sources.test_tars import png

TREE = ["a.png", "b.jpg", "drafts/c.png", "drafts/d/e.png", "x/drafts/f.jpg", "x/y/g.png", "A.PNG"]


def find(folder: Path, *, exclude: tuple[str, ...] = (), include: tuple[str, ...] = (), **more: bool) -> FoundImages:
    """Return what is found in a folder, and in a tar of it too."""
    rules = InputRules(tuple(map(Pattern, exclude)), tuple(map(Pattern, include)), more.get("all_files", False))
    found = find_images([folder], rules=rules)
    with tarfile.open(folder.with_suffix(".tar"), "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            if path.is_file():
                info.size = path.stat().st_size
                archive.addfile(info, io.BytesIO(path.read_bytes()))
    packed = find_images([folder.with_suffix(".tar")], rules=rules)
    assert [f"{folder.name}/{image.key}" for image in found.images] == [image.key for image in packed.images]
    assert found.passed_over.keys() == packed.passed_over.keys()
    return found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in TREE:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(png())
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        (["*.png"], {"a.png", "drafts/c.png", "drafts/d/e.png", "x/y/g.png"}),
        (["drafts"], {"drafts/c.png", "drafts/d/e.png", "x/drafts/f.jpg"}),
        (["drafts/"], {"drafts/c.png", "drafts/d/e.png", "x/drafts/f.jpg"}),
        (["a.png/"], set()),
        (["/drafts"], {"drafts/c.png", "drafts/d/e.png"}),
        (["/a.png"], {"a.png"}),
        (["drafts/*"], {"drafts/c.png", "drafts/d/e.png"}),
        (["drafts/*.png"], {"drafts/c.png"}),
        (["drafts/**"], {"drafts/c.png", "drafts/d/e.png"}),
        (["**/drafts/*.jpg"], {"x/drafts/f.jpg"}),
        (["drafts/**/e.png"], {"drafts/d/e.png"}),
        (["x/**/*.*"], {"x/drafts/f.jpg", "x/y/g.png"}),
        (["[ab].*", "?.jpg"], {"a.png", "b.jpg", "x/drafts/f.jpg"}),
        (["[!a-e].*"], {"x/drafts/f.jpg", "x/y/g.png", "A.PNG"}),
        (["A*"], {"A.PNG"}),
        (["\\a.png", "[.]"], {"a.png"}),
        (["d"], {"drafts/d/e.png"}),
        (["**"], set(TREE)),
    ],
)
def test_excluded_is_what_a_pattern_stands_for_and_all_that_lies_in_it(
    photos: Path, patterns: list[str], left_out: set[str]
) -> None:
    found = find(photos, exclude=tuple(patterns))
    assert {image.key for image in found.images} == set(TREE) - left_out
    assert ("excluded" in found.passed_over) == bool(left_out)
    if left_out != set(TREE):
        included = find(photos, include=tuple(patterns))
        assert {image.key for image in included.images} == left_out


def test_an_exclusion_goes_before_an_inclusion_and_a_file_named_outright_before_both(photos: Path) -> None:
    found = find(photos, include=("*.png", "drafts"), exclude=("d", "a.*"))
    assert [image.key for image in found.images] == ["drafts/c.png", "x/drafts/f.jpg", "x/y/g.png"]
    rules = InputRules(exclude=(Pattern("*"),))
    assert find_images([photos / "a.png"], listed=[photos / "b.jpg"], rules=rules).num_ignored == 0


@pytest.mark.parametrize(
    "text", ["", "/", "a//b", "../a", "a/../b", ".", "[ab", "[", "[!]", "[z-a]", "a\\", "a\0b", "./a", "//a"]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no pattern"):
        Pattern(text)


@pytest.mark.parametrize(
    "text", ["[[]", "[]]", "[!]a]", "[a^]", "[\\]", "[&&]", "[||]", "[--]", "(a)", "a+b$", "{a,b}"]
)
def test_signs_of_other_languages_of_patterns_mean_themselves(text: str) -> None:
    inner = text[1:-1] if text.startswith("[") else text
    pattern = Pattern(text)
    if inner.startswith("!"):
        assert not any(pattern.matches(sign, sign, is_folder=False) for sign in inner[1:])
        assert pattern.matches("b", "b", is_folder=False)
        assert not pattern.matches("/", "/", is_folder=False)
    else:
        assert all(pattern.matches(sign, sign, is_folder=False) for sign in (inner if text[0] == "[" else [inner]))


SYSTEM = {
    "@eaDir/img.jpg/SYNOPHOTO_THUMB_XL.jpg": "thumbnails",
    "SYNOFILE_THUMB_S.png": "thumbnails",
    "$RECYCLE.BIN/S-1-5-21/$R123456.jpg": "deleted files",
    "$R123456.jpg": "deleted files",
    "#recycle/old.jpg": "deleted files",
    "lost+found/#123": "files of the file system",
    "MVI_1.THM": "camera previews",
    "img.jpg_original": "backup copies",
    "img.jpg~": "backup copies",
    "img.jpg.part": "unfinished downloads",
    "._img.jpg": "files of the desktop",
    "__MACOSX/img.jpg": "files of the desktop",
    ".hidden.jpg": "hidden",
    ".cache/img.jpg": "hidden",
}


def test_what_systems_and_cameras_put_beside_images_is_passed_over_by_its_kind(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in (*SYSTEM, "img.jpg", "Sample.png", "recycle/img.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
    (folder / "._other.jpg").write_bytes(b"what a Mac knows of other.jpg")
    (folder / "img.txt").write_bytes(b"a text")
    (folder / "@eaDir" / "broken.jpg").write_bytes(b"a text")
    found = find(folder)
    assert [image.key for image in found.images] == ["Sample.png", "img.jpg", "recycle/img.jpg"]
    assert found.passed_over.keys() == {*SYSTEM.values(), "no images by suffix or content"}
    every = find(folder, all_files=True)
    assert [image.key for image in every.images] == sorted([*SYSTEM, "Sample.png", "img.jpg", "recycle/img.jpg"])
    assert every.passed_over == {"no images by suffix or content": 3}  # these names make no image by themselves
    assert find(folder, all_files=True, exclude=("@eaDir", "lost+found")).num_ignored == 5 - 1


def test_a_name_that_is_not_looked_up_is_no_systems() -> None:
    names = [path.rpartition("/")[2] for path in SYSTEM if path.endswith((".jpg", ".png"))]
    names += [name.lower() for name in names] + [".nfs0123456789abcdef0.png", ".trashed-1-a.jpg"]
    assert all(file_kind(name) is None or not is_plain_name(name) for name in names)
    assert all(is_plain_name(name) for name in ("IMG_1.jpg", "ß.png", "1.webp", "sample.jpg", "Sun.png"))
