"""Latents on a pipe: what is written, and what is made of what comes, whole or not."""

import io
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import cast

import pytest

from semdis_cli.errors import StoreError, UsageError
from semdis_cli.events import BatchDone, Event, Failure, RunFinished, ShardFailed
from semdis_cli.files.tar import TAR_END, tar_member
from semdis_cli.images.loader import Loader
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.decode import decode
from semdis_cli.pipeline.encode import encode
from semdis_cli.pipeline.images_out import ImageWriter, StreamNames
from semdis_cli.pipeline.stream import LatentStream, decode_stream, encode_stream
from semdis_cli.settings import DecodeSettings, EncodeSettings, LoadSettings, TokenizerSettings, WriteSettings
from semdis_cli.sources.find import find_images
from semdis_cli.store.reader import open_latents
from semdis_cli.store.shards import Shard, parse_shard, shard_bytes
from tests.store import with_keys, with_settings
from tests.worlds import save_noise

# Two sizes, so that a stream has batches of two shapes, and a file that is no image.
SIZES = {"a.jpg": (32, 48), "b/c.png": (16, 16), "b/d.png": (32, 48), "e.webp": (16, 16), "ü\n.bmp": (32, 48)}
SETTINGS = EncodeSettings(num_workers=2)
DECODING = DecodeSettings(num_workers=2)

Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, size) in enumerate(SIZES.items()):
        save_noise(folder / name, number, size)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=2, num_threads=1))


def encoded(photos: Path, tokenizer: Tokenizer, num_workers: int = 2) -> tuple[bytes, list[Event]]:
    """The stream that a folder becomes, and what was said."""
    stream = io.BytesIO()
    with Loader(LoadSettings(), 16, num_workers) as loader:
        events = list(encode_stream(find_images([photos]), loader, tokenizer, SETTINGS, stream.write))
    return stream.getvalue(), events


@pytest.fixture(scope="module")
def stream(photos: Path, tokenizer: Tokenizer) -> bytes:
    return encoded(photos, tokenizer)[0]


@pytest.fixture(scope="module")
def members(stream: bytes) -> Members:
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        return [(member.name, file.read()) for member in archive if (file := archive.extractfile(member))]


def pack(members: Members) -> bytes:
    return b"".join(tar_member(name, data) for name, data in members) + TAR_END


def events_of(stream: bytes, tokenizer: Tokenizer, output: Path) -> list[Event]:
    return list(decode_stream(LatentStream(io.BytesIO(stream)), tokenizer, DECODING, output))


def failed(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, ShardFailed)]


def images(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def decoded(stream: bytes, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The images of the whole stream."""
    folder = tmp_path_factory.mktemp("decoded") / "out"
    assert failed(events_of(stream, tokenizer, folder)) == []
    return images(folder)


def change(data: bytes, edit: Callable[[Shard], Shard]) -> bytes:
    """A member with other contents, and hashes that fit."""
    return shard_bytes(edit(parse_shard(data, "test")))


# ---- Writing ----


def test_a_stream_has_a_file_for_each_image_that_could_be_used(stream: bytes, members: Members) -> None:
    keys = [key for key in SIZES if SIZES[key] == (16, 16)] + [key for key in SIZES if SIZES[key] != (16, 16)]
    assert [name for name, _ in members] == [f"{key}.safetensors" for key in keys]  # in the plan's order
    for (_, data), key in zip(members, keys, strict=True):
        assert parse_shard(data, "test").keys == (key,)
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
    assert stream.endswith(bytes(1024))


def test_failures_are_told_and_counted(photos: Path, tokenizer: Tokenizer) -> None:
    _, events = encoded(photos, tokenizer)
    assert [event.key for event in events if isinstance(event, Failure)] == ["bad.png"]
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    assert (finished.num_ok, finished.num_failed) == (len(SIZES), 1)
    assert sum(event.num_images for event in events if isinstance(event, BatchDone)) == len(SIZES)


@pytest.mark.parametrize("num_workers", [1, 5])
def test_the_same_bytes_for_any_number_of_workers(
    photos: Path, tokenizer: Tokenizer, stream: bytes, num_workers: int
) -> None:
    assert encoded(photos, tokenizer, num_workers)[0] == stream


def test_files_come_as_soon_as_they_are_ready(photos: Path, tokenizer: Tokenizer) -> None:
    written: list[bytes] = []
    with Loader(LoadSettings(), 16, 1) as loader:
        events = encode_stream(find_images([photos]), loader, tokenizer, SETTINGS, written.append)
        for event in events:
            if isinstance(event, BatchDone):
                break
        assert len(written) == 2  # the two of the first model call
        cast("Generator[Event]", events).close()
    assert len(written) == 2  # and no end of the tar, since there were more to come


# ---- Reading ----


def test_a_stream_decodes_to_the_images_of_the_set(
    photos: Path, tokenizer: Tokenizer, decoded: dict[str, bytes], tmp_path: Path
) -> None:
    with Loader(LoadSettings(), 16, 2) as loader:
        list(encode(find_images([photos]), loader, tokenizer, SETTINGS, tmp_path / "latents"))
    list(decode(open_latents(tmp_path / "latents"), tokenizer, DECODING, tmp_path / "out"))
    assert decoded == images(tmp_path / "out")
    assert set(decoded) == {"a.png", "b/c.png", "b/d.png", "e.png", "ü\n.png"}


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_images_are_decoded_in_calls_of_one_shape_and_none_is_left(
    tiny: Path, members: Members, decoded: dict[str, bytes], batch_size: int, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(str(tiny), TokenizerSettings(dtype="float32", batch_size=batch_size, num_threads=1))
    mixed = [members[i] for i in (2, 0, 3, 1, 4)]
    events = events_of(pack(mixed), tokenizer, tmp_path / "out")
    assert sum(event.num_images for event in events if isinstance(event, BatchDone)) == len(members)
    assert images(tmp_path / "out").keys() == decoded.keys()


@pytest.mark.parametrize("position", range(5))
def test_a_damaged_file_fails_alone(
    members: Members, tokenizer: Tokenizer, decoded: dict[str, bytes], position: int, tmp_path: Path
) -> None:
    name, data = members[position]
    damaged = bytearray(data)
    damaged[-3] ^= 1
    events = events_of(
        pack([*members[:position], (name, bytes(damaged)), *members[position + 1 :]]), tokenizer, tmp_path / "out"
    )
    assert failed(events) == [name]
    [reason] = [event.reason for event in events if isinstance(event, ShardFailed)]
    assert "do not match their sha256" in reason
    missing = set(decoded) - set(images(tmp_path / "out"))
    assert len(missing) == 1
    finished = events[-1]
    assert isinstance(finished, RunFinished)
    assert (finished.num_ok, finished.num_failed) == (4, 1)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.99])
def test_of_a_stream_that_is_cut_off_all_that_came_whole_is_decoded(
    stream: bytes, tokenizer: Tokenizer, decoded: dict[str, bytes], share: float, tmp_path: Path
) -> None:
    num_bytes = int(len(stream.rstrip(b"\0")) * share)
    with tarfile.open(fileobj=io.BytesIO(stream)) as archive:
        num_whole = sum(member.offset_data + member.size <= num_bytes for member in archive)
    assert num_whole >= 1
    with pytest.raises(StoreError, match=r"stdin: damaged or cut off"):
        events_of(stream[:num_bytes], tokenizer, tmp_path / "out")
    found = images(tmp_path / "out")
    assert len(found) == num_whole
    assert found.items() <= decoded.items()


def test_a_stream_without_its_end_is_cut_off(members: Members, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cut off"):
        events_of(pack(members)[: -len(TAR_END)], tokenizer, tmp_path / "out")
    assert len(images(tmp_path / "out")) == len(members)


def test_what_goes_behind_the_end_is_told(members: Members, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="goes on behind its end"):
        events_of(pack(members[:2]) + pack(members[2:]), tokenizer, tmp_path / "out")
    assert len(images(tmp_path / "out")) == 2


def strangers(members: Members) -> Iterator[tuple[str, bytes, str]]:
    """Members that are no good after the first of `members`, and a word of the reason."""
    first, other = members[0][1], members[1][1]
    yield ("settings", change(other, lambda shard: with_settings(shard, seed=1)), "settings")
    yield "again", first, "came before"
    yield "out", change(other, lambda shard: with_keys(shard, ["../out.png"])), "would leave the output folder"
    yield "absolute", change(other, lambda shard: with_keys(shard, ["/tmp/out.png"])), "would leave the output"
    yield "folder", change(other, lambda shard: with_keys(shard, ["b/c.png/x.png"])), "another image's, or a folder"
    yield "empty", b"", "not a semdis shard"
    double = parse_shard(members[2][1], "test")
    rows = replace(double, latents=double.latents.repeat(2, 1, 1, 1), records=[*double.records] * 2)
    yield "two", shard_bytes(with_keys(rows, ["x", "y"])), "holds 2 images"
    yield "nan", change(other, lambda shard: replace(shard, latents=shard.latents * float("nan"))), "not finite"
    yield (
        "grid",
        change(other, lambda shard: replace(shard, latents=shard.latents.repeat(1, 1, 2, 1))),
        "does not fit latents of",
    )
    yield "channels", change(other, lambda shard: replace(shard, latents=shard.latents.repeat(1, 2, 1, 1))), "channels"


def test_strangers_in_a_stream_fail_alone(members: Members, tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name, data, reason in strangers(members):
        folder = tmp_path / name
        before = set(tmp_path.parent.rglob("*"))
        stream = pack([members[0], (f"{name}.safetensors", data), *members[2:]])
        events = events_of(stream, tokenizer, folder)
        [failure] = [event for event in events if isinstance(event, ShardFailed)]
        assert reason in failure.reason, name
        assert len(images(folder)) == 4
        assert all(path.is_relative_to(folder) for path in set(tmp_path.parent.rglob("*")) - before)


def test_a_file_of_absurd_size_is_not_read(members: Members, tokenizer: Tokenizer, tmp_path: Path) -> None:
    header = tarfile.TarInfo("large.safetensors")
    header.size = 1 << 40
    with pytest.raises(StoreError, match="cut off"):
        events_of(pack(members)[: -len(TAR_END)] + header.tobuf() + b"{" * 4096, tokenizer, tmp_path / "out")
    assert len(images(tmp_path / "out")) == len(members)


def test_files_that_are_no_latents_are_passed_over(members: Members, tokenizer: Tokenizer, tmp_path: Path) -> None:
    others = [("a.txt", b"a caption"), ("a.json", b"{}")]
    assert failed(events_of(pack([*others, *members, *others]), tokenizer, tmp_path / "out")) == []
    assert len(images(tmp_path / "out")) == len(members)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty; did the command fail"),
        (b"no latents", "neither a tar nor a file of latents"),
        (bytes(600), "neither|no latents"),
        (TAR_END, "no latents in it"),
        (tar_member("a.txt", b"x") + TAR_END, "no latents in it"),
        (
            tar_member("a.safetensors", b"x") + tar_member("b.safetensors", b"x") + TAR_END,
            r"a\.safetensors.*none of the 2",
        ),
        (b"\x10\0\0\0\0\0\0\0{" + bytes(600), "not a semdis shard"),
    ],
)
def test_what_is_no_stream_of_latents_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        LatentStream(io.BytesIO(data))


def test_a_second_run_writes_everything_again_and_sweeps_what_a_killed_one_left(
    stream: bytes, tokenizer: Tokenizer, decoded: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    events_of(stream, tokenizer, folder)
    (folder / "a.png").write_bytes(b"damaged")
    for left in (folder, folder / "b"):
        (left / ".0123456789abcdef.semdis-tmp").write_bytes(b"left")
    events_of(stream, tokenizer, folder)
    assert images(folder) == decoded
    assert not [path for path in folder.rglob(".*") if path.suffix == ".semdis-tmp"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        events_of(stream, tokenizer, tmp_path / "other")


# ---- Names ----


def test_names_go_to_the_first_that_comes() -> None:
    names = StreamNames("png")
    keys = ("a.jpg", "a.webp", "b/a.jpg", "a.tif", "c", "d.x/e.jpg", "d.jpg")
    claimed = ["a.png", "a.webp.png", "b/a.png", "a.tif.png", "c.png", "d.x/e.png", "d.png"]
    assert [str(names.claim(key)) for key in keys] == claimed
    for key in ("a.jpg", "a.webp", "c"):
        with pytest.raises(StoreError, match="came before"):
            names.claim(key)
    with pytest.raises(StoreError, match="folder"):
        names.claim("d.png/x.jpg")
    assert str(names.claim("a.webp/x.jpg")) == "a.webp/x.png"


def test_a_folder_is_swept_once_whatever_it_is_called(tmp_path: Path) -> None:
    """Else a file that is being written could be taken for one that a killed run left."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old/.0123456789abcdef.semdis-tmp").write_text("left by a killed run")
    (tmp_path / "link").symlink_to("new")
    names = {key: PurePosixPath(f"{key}.png") for key in ("old/a", "new/a", "link/a", "again/a")}
    writer = ImageWriter(tmp_path, names, WriteSettings())
    writer.sweep_beside("old/a")
    assert list((tmp_path / "old").iterdir()) == []
    writer.sweep_beside("new/a")
    (tmp_path / "new").mkdir()
    (tmp_path / "again").symlink_to("new")
    for folder in ("old", "new"):
        (tmp_path / folder / ".fedcba9876543210.semdis-tmp").write_text("being written")
    for key in names:
        writer.sweep_beside(key)

    assert len(list((tmp_path / "old").iterdir())) == len(list((tmp_path / "new").iterdir())) == 1
