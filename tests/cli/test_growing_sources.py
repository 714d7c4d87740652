"""`semdis encode` over sources that become more, or fewer: what a set has keeps its keys and is not encoded again."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_grow import facts, stored, write_image

ENCODE = ("--threads", "1", "--shard-images", "1", "--size", "32")


def pack(folder: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for inner in sorted(folder.iterdir()):
            archive.add(inner, inner.name)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Sources of two images each: everywhere the same names and sizes, everywhere other pixels."""
    places = ("part0", "part1", "x/photos", "y/photos", "top/part1", "1", "2")
    for number, place in enumerate(places):
        for inner, name in enumerate(("a.bmp", "b.bmp")):
            write_image(tmp_path / place / name, 2 * number + inner)
    for number in (1, 2):
        pack(tmp_path / str(number), tmp_path / f"job{number}" / "00000.tar")
    (tmp_path / "link").symlink_to("part0")
    (tmp_path / "link.tar").symlink_to("job1/00000.tar")
    return tmp_path


TAR1, TAR2 = "job1/00000.tar", "job2/00000.tar"
slow = pytest.mark.slow
GROWING = [
    pytest.param([TAR1], [TAR1, TAR2], "00000/ job2/00000/", marks=slow),
    ([TAR1], [TAR2, "link.tar"], "00000/ job2/00000/"),
    pytest.param([TAR1, TAR2], [TAR2, "part0", TAR1], "job1/00000/ job2/00000/ part0/", marks=slow),
    (["part0"], ["part0", "part1"], " part1/"),
    pytest.param(["part0/"], ["part1/", "./link/../part0"], " part1/", marks=slow),
    pytest.param(["link"], ["{}/part1", "{}/part0"], " part1/", marks=slow),
    pytest.param(["part0"], [TAR1, "part0"], " 00000/", marks=slow),
    pytest.param([TAR1], ["part0", "./" + TAR1], "00000/ part0/", marks=slow),
    pytest.param(["x/photos"], ["y/photos", "x/photos"], " y/photos/", marks=slow),
    pytest.param(["x/photos", "y/photos"], ["part0", "y/photos", "x/photos"], "x/photos/ y/photos/ part0/", marks=slow),
    (["top"], ["part1", "top"], "part1/ {}/part1/"),  # the first one has a folder of the other's name
    pytest.param(["part0", "x/photos/a.bmp"], ["part0", "x/photos/a.bmp", "part1"], " part0/ part1/", marks=slow),
]


@pytest.mark.parametrize(("first", "then", "beginnings"), GROWING)
def test_a_set_grows_by_a_source_and_what_it_has_keeps_its_keys(
    world: Path, run: Run, tiny: Path, first: list[str], then: list[str], beginnings: str
) -> None:
    def encode(sources: list[str], output: str = "latents") -> Path:
        done = run("encode", *(each.format(world) for each in sources), "-o", output, "--model", tiny, *ENCODE)
        assert done.code == 0, done.stderr
        return world / output

    before = stored(encode(first))
    root = encode(then)
    after = stored(root)
    assert before.items() <= after.items()
    assert facts(root) == (len(after), len(after) - len(before), len(before), 0)
    wanted = {each.format(str(world).lstrip("/").rpartition("/")[2]) for each in beginnings.split(" ")}
    assert {key.removesuffix("a.bmp").removesuffix("b.bmp") for key in after} == wanted
    assert stored(encode(then[::-1])) == after  # in any order
    assert facts(root)[1:] == (0, len(after), 0)
    assert run("verify", root, "--data", *(f"--against={each.format(world)}" for each in then)).code == 0


@pytest.mark.parametrize(
    ("first", "then"), [([TAR1], [TAR2, TAR1]), pytest.param(["part0"], ["part1", "part0"], marks=slow)]
)
def test_an_unfinished_set_grows_too(world: Path, run: Run, tiny: Path, first: list[str], then: list[str]) -> None:
    encode = ("-o", "latents", "--model", tiny, *ENCODE)
    broken = world / "part0" / "z.bmp"
    broken.write_bytes(b"BM but no image")
    shutil.copy(broken, world / "1")
    pack(world / "1", world / TAR1)
    assert run("encode", *first, *encode, "--max-errors", "0").code == 3
    assert not (world / "latents" / "manifest.json").exists()
    num_done = len(list((world / "latents" / "shards").iterdir()))
    assert num_done
    assert run("encode", *then, *encode).code == 3
    ok, this_run, unchanged, removed = facts(world / "latents")
    assert (ok, this_run, removed) == (4, 4 - num_done, 0)
    assert unchanged - num_done in {0, 1}  # the broken one, too, if its file was old enough to be told by its time


@slow
@pytest.mark.parametrize(("first", "then"), [(["part0", "part1"], ["part0"]), ([TAR1, TAR2], [TAR2]), ([TAR1], [TAR1])])
def test_a_set_of_several_sources_keeps_the_keys_of_those_that_are_left(
    world: Path, run: Run, tiny: Path, first: list[str], then: list[str]
) -> None:
    encode = ("-o", "latents", "--model", tiny, *ENCODE)
    assert run("encode", *first, *encode).code == 0
    assert run("encode", *then, *encode).code == 0
    assert facts(world / "latents") == (2, 0, 2, 2 * (len(first) - 1))


def test_a_set_made_of_a_tar_alone_without_its_name_goes_on_without_it(world: Path, run: Run, tiny: Path) -> None:
    encode = ("-o", "latents", "--model", tiny, *ENCODE)
    assert run("encode", "1", *encode).code == 0  # the keys that a tar by itself had before: those of its folder
    assert run("encode", TAR1, *encode).code == 0
    assert facts(world / "latents") == (2, 0, 2, 0)
    assert run("encode", TAR2, TAR1, *encode).code == 0
    assert facts(world / "latents") == (4, 2, 2, 0)
    assert sorted(stored(world / "latents")) == ["a.bmp", "b.bmp", "job2/00000/a.bmp", "job2/00000/b.bmp"]


@slow
def test_sources_of_one_name_that_share_it_in_a_set_go_on_sharing_it(world: Path, run: Run, tiny: Path) -> None:
    encode = ("-o", "latents", "--model", tiny, *ENCODE)
    (world / "y/photos/a.bmp").rename(world / "y/photos/c.bmp")
    (world / "y/photos/b.bmp").rename(world / "y/photos/d.bmp")
    both = world / "z" / "photos"
    for source in ("x", "y"):
        shutil.copytree(world / source / "photos", both, dirs_exist_ok=True)
    assert run("encode", both, world / "part0", *encode).code == 0  # keys that two folders of one name had before
    assert run("encode", "x/photos", "y/photos", "part0", *encode).code == 0
    assert facts(world / "latents") == (6, 0, 6, 0)


def test_images_that_are_all_others_keep_their_keys_beside_a_new_source(world: Path, run: Run, tiny: Path) -> None:
    encode = ("-o", "latents", "--model", tiny, *ENCODE)
    assert run("encode", "part0", *encode).code == 0
    for name in ("a.bmp", "b.bmp"):
        with (world / "part0" / name).open("ab") as file:
            file.write(b"x")
    assert run("encode", "part1", "part0", *encode).code == 0
    assert sorted(stored(world / "latents")) == ["a.bmp", "b.bmp", "part1/a.bmp", "part1/b.bmp"]


def test_a_set_of_other_images_is_refused_and_says_how_to_add_to_it(world: Path, run: Run, tiny: Path) -> None:
    encode = ("-o", "latents", "--model", tiny, *ENCODE)
    (world / "part1" / "a.bmp").rename(world / "part1" / "c.bmp")
    (world / "part1" / "b.bmp").unlink()
    assert run("encode", "part0", *encode).code == 0
    done = run("encode", "part1", *encode)
    assert done.code == 2
    assert "name its sources too" in done.stderr
    assert run("encode", "part0", "part1", *encode).code == 0
    assert facts(world / "latents") == (3, 1, 2, 0)


def test_what_is_excluded_now_is_marked_like_what_is_gone_and_comes_back(world: Path, run: Run, tiny: Path) -> None:
    encode = ("encode", "part0", "-o", "latents", "--model", tiny, *ENCODE)
    assert run(*encode).code == 0
    idle = run(*encode, "--exclude", "part0/b.*", "--exclude", "b.*", "--exclude", "b*", "--dry-run")
    assert "semdis: --exclude 'part0/b.*' had no effect: paths in patterns begin in the source" in idle.stderr
    planned = json.loads(run(*encode, "--exclude", "b.*", "--dry-run", "--json").stdout)
    assert planned["passed_over"] == {"excluded": 1}
    done = run(*encode, "--exclude", "b.*")
    assert "1 other file passed over (excluded: 1)" in done.stderr
    assert facts(world / "latents") == (1, 0, 1, 1)
    assert run("verify", "latents", "--against", "part0", "--exclude", "b.*").code == 0
    assert run("verify", "latents", "--against", "part0").code == 4
    assert run("verify", "latents", "--exclude", "b.*").code == 2
    assert run(*encode).code == 0
    assert facts(world / "latents") == (2, 0, 2, 0)
    assert run(*encode, "--include", "[a").code == 2


def test_tars_of_which_nothing_can_be_used_are_listed_before_anything_is_loaded_or_written(
    world: Path, run: Run
) -> None:
    for name in ("cut.tar", "text.tar"):
        (world / name).write_bytes((world / TAR1).read_bytes()[:600] if name == "cut.tar" else b"404" * 400)
    done = run("encode", "cut.tar", "text.tar", "-o", "latents", "--model", "there-is-none")
    assert done.code == 2
    assert all(f"{name}: cannot be read as an uncompressed tar" in done.stderr for name in ("cut.tar", "text.tar"))
    assert not (world / "latents").exists()


def test_a_tar_that_is_mended_gives_the_rest(world: Path, run: Run, tiny: Path) -> None:
    encode = ("encode", TAR1, TAR2, "-o", "latents", "--model", tiny, *ENCODE)
    whole = (world / TAR2).read_bytes()
    (world / TAR2).write_bytes(whole[:9000])
    done = run(*encode)
    assert (done.code, facts(world / "latents")[0]) == (3, 3)
    assert "failed: job2/00000.tar: cannot be read as an uncompressed tar (cut off in 'b.bmp')" in done.stderr
    (world / TAR2).write_bytes(whole)
    assert run(*encode).code == 0
    assert facts(world / "latents") == (4, 1, 3, 0)
