"""Single images outside of a store: names in tars, arrays without bfloat16, and a tar reader that believes nothing."""

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.files.json_text import key_fields
from semdis_cli.files.tar import TAR_END, read_members, tar_member
from semdis_cli.parts import LATENTS_FLIP, MASK
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.exchange.arrays import npy_bytes
from semdis_cli.store.exchange.export import (
    check_finite,
    file_names,
    impossible_names,
    make_arrays,
    make_shard_file,
    sample_base,
    sample_key,
)
from semdis_cli.store.reader import recorded_layout
from semdis_cli.store.record import source_fields
from semdis_cli.store.shards import STORE_DTYPES, parse_shard
from tests.store import PROVENANCE, are_equal, make_shard

# The name of a tar's member -> (key of the sample, extension), as webdataset 1.0.2 has it.
WEBDATASET_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
WEBDATASET_PASSED_OVER = re.compile(r"__[^/]*__($|/)")

Read = TypeVar("Read")

any_text = st.text(st.characters(), max_size=20) | st.text(
    st.sampled_from("a.b/%_é\n\udce9\ud83d\ude00\x00 "), max_size=9
)


def unless_refused(read: Callable[[], Read], start: str) -> Read | None:
    """What is read, or None where that is refused with a line that begins so."""
    try:
        return read()
    except StoreError as error:
        line = str(error)
    assert line.startswith(start)
    return None


# --- names in a tar -------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(key=any_text)
@example(key="__pycache__/a.jpg")
@example(key="\ud83d\ude00")
def test_every_key_has_a_name_in_a_tar_that_leads_back(key: str) -> None:
    base = sample_base(key)
    assert sample_key(base) == key
    assert re.fullmatch("[A-Za-z0-9_~/%-]*", base)


@settings(max_examples=200, deadline=None)
@given(one=any_text, other=any_text)
@example(one="é", other=os.fsdecode("é".encode()))
@example(one="é", other="\udcc3\udca9")
@example(one="a.b", other="a%2Eb")
def test_two_keys_never_share_a_name_in_a_tar(one: str, other: str) -> None:
    assert (sample_base(one) == sample_base(other)) == (one == other)


@settings(max_examples=200, deadline=None)
@given(key=any_text.filter(lambda key: key.rpartition("/")[2]))
@example(key="__a__/b.jpg")
@example(key=".hidden.tar.gz/.a.b.c")
def test_webdataset_finds_the_extension_and_passes_nothing_over(key: str) -> None:
    for extension in ("safetensors", "npy", "json"):
        found = WEBDATASET_NAME.match(f"{sample_base(key)}.{extension}")
        assert found is not None
        assert found.groups() == (sample_base(key), extension)
        assert WEBDATASET_PASSED_OVER.match(found[0]) is None


@pytest.mark.parametrize("base", ["a.b", "%2e", "_a", "a%", "%FF", "a b", "%61", "é", "\ud800"])
def test_a_name_that_no_export_gives_has_no_key(base: str) -> None:
    with pytest.raises(ValueError, match=r"no name that an export gives|can't decode|surrogates not allowed"):
        sample_key(base)


# --- names of files -------------------------------------------------------------------------------------------------


def test_files_keep_the_key_and_get_a_suffix() -> None:
    assert file_names(["a/b.jpg"], "npy") == {"a/b.jpg": PurePosixPath("a/b.jpg.npy")}
    with pytest.raises(StoreError, match="would leave the output folder"):
        file_names(["a.jpg", "../b.jpg"], "npy")


IMPOSSIBLE = {
    "x" * 252: "longer than 255 bytes",
    "/".join(["x" * 200] * 25): "path would be too long",
    "a/" * 300 + "b": "path would be too long",
    "export.json/a.png": "the export itself needs",
    ".semdis-lock/a.png": "the export itself needs",
    "b/.0.semdis-tmp/a.png": "the export itself needs",
    "c": "another image's folder",
    "\udcc3\udca9": "another image's",
}


def test_what_no_file_can_be_called_costs_its_own_image_alone(tmp_path: Path) -> None:
    names = file_names(["é", *IMPOSSIBLE, "c.npy/d", "x" * 251, "export.json"], "npy")
    failures = {failure.key: failure.reason for failure in impossible_names(names, tmp_path)}
    assert failures.keys() == IMPOSSIBLE.keys()
    assert [key for key, reason in failures.items() if IMPOSSIBLE[key] not in reason] == []


# --- arrays ---------------------------------------------------------------------------------------------------------


def load(data: bytes) -> np.ndarray[Any, Any]:
    return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return] # noqa: TID251 # as others do


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_numpy_reads_the_array(dtype: torch.dtype) -> None:
    latents = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)).to(dtype).transpose(1, 2)
    read = load(npy_bytes(latents))
    assert (read.shape, read.dtype.byteorder) == ((3, 5, 2), "=")
    assert np.array_equal(read, latents.numpy())


def test_the_bytes_of_an_array_stay_as_they_are() -> None:
    header = "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 3), }".ljust(117) + "\n"
    values = b"\x00\x00\x00<\x00@\x00B\x00D\x00E"  # 0 to 5
    data = npy_bytes(torch.arange(6, dtype=torch.float16).reshape(1, 2, 3))
    assert data == b"\x93NUMPY\x01\x00v\x00" + header.encode() + values


# --- one image as a file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", STORE_DTYPES)
def test_an_image_is_a_shard_of_its_own(dtype: str) -> None:
    shard = make_shard(("a.png", "b/c.png"), dtype)
    sample = make_shard_file(shard, 1)
    assert are_equal(parse_shard(sample.data, "here"), shard.select([1]))
    assert sample.record.is_exact
    assert sample.record.image == shard.records[1]
    assert sample.record.image.key == "b/c.png"


@pytest.mark.parametrize(
    ("stored", "written", "is_exact"),
    [
        ("bfloat16", "float32", True),
        ("float16", "float16", True),
        ("float16", "float32", True),
        ("float32", "float32", True),
        ("float32", "float16", False),
    ],
)
def test_an_array_says_whether_it_lost_digits(stored: str, written: Any, is_exact: bool) -> None:
    shard = make_shard(dtype=stored)
    sample = make_arrays(shard, 0, {"latents": written}, npy_bytes)
    assert sample.record.is_exact == is_exact
    values = torch.from_numpy(load(sample.data)).to(STORE_DTYPES[stored])
    assert torch.equal(values, shard.latents[0]) == is_exact


def test_a_bfloat16_below_the_range_of_float16_is_lost_and_that_is_said() -> None:
    shard = make_shard()
    shard.latents[0, 0, 0, 0] = 1e-9
    assert not make_arrays(shard, 0, {"latents": "float16"}).record.is_exact


def test_a_value_beyond_float16_is_a_failure() -> None:
    shard = make_shard()
    shard.latents[0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="too large for float16"):
        make_arrays(shard, 0, {"latents": "float16"})
    assert make_arrays(shard, 0, {"latents": "float32"}).record.is_exact


def test_parts_are_on_record_and_digits_of_theirs_count_too() -> None:
    shard = make_shard(parts=[LATENTS_FLIP, MASK])
    sample = make_arrays(shard, 1, {"latents": "float32", LATENTS_FLIP: "float32", MASK: "float16"}, npy_bytes)
    assert sample.record.is_exact
    for name, dtype in ((LATENTS_FLIP, "float32"), (MASK, "float16")):
        found = torch.from_numpy(load(sample.parts[name]))
        assert torch.equal(found, shard.parts[name][1].to(found.dtype))
        facts = {"dtype": dtype, "shape": [*found.shape], **FileDigest.of(sample.parts[name]).to_json()}
        assert json.loads(sample.record.to_bytes())["parts"][name] == facts
    shard.latents[1] = 1
    shard.parts[LATENTS_FLIP][1, 0, 0, 0] = 1e-9
    assert not make_arrays(shard, 1, {"latents": "float16", LATENTS_FLIP: "float16"}).record.is_exact
    shard.parts[LATENTS_FLIP][1, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="its latents_flip are too large for float16"):
        make_arrays(shard, 1, {"latents": "float16", LATENTS_FLIP: "float16"})


def test_a_record_says_all_that_is_known_of_an_image() -> None:
    shard = make_shard((os.fsdecode(b"\xe9\n.png"),))
    sample = make_arrays(shard, 0, {"latents": "float32"}, npy_bytes)
    assert json.loads(sample.record.to_bytes()) == {
        **key_fields(shard.records[0].key),
        "geometry": shard.records[0].geometry.to_json(),
        "source": source_fields(shard.records[0]),
        "whitened": True,
        "provenance_sha256": Provenance.from_json(PROVENANCE).sha256,
        "file": {"num_bytes": len(sample.data), "sha256": hashlib.sha256(sample.data).hexdigest()},
        "exact": True,
    }


@pytest.mark.parametrize(
    "changes", [{"patch_size": 0}, {"channels": -1}, {"channels": "3"}, {"dtype": "float64"}, {"dtype": []}]
)
def test_settings_that_describe_no_latents_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"^here: its settings do not say what its latents are"):
        recorded_layout(Provenance.from_json({**PROVENANCE, **changes}), "here")


def test_latents_that_are_not_finite_are_refused() -> None:
    check_finite(make_shard(), "here")
    not_finite = make_shard()
    not_finite.latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(StoreError, match=r"^here: latents that are not finite"):
        check_finite(not_finite, "here")


# --- tars -----------------------------------------------------------------------------------------------------------

names = (st.text(st.sampled_from("ab/é\n\udce9 "), min_size=1, max_size=9) | st.just("x/" * 90 + "y" * 200)).filter(
    lambda name: not name.endswith("/")
)
files = st.lists(st.tuples(names, st.binary(max_size=600)), max_size=5)


@settings(max_examples=50, deadline=None)
@given(files=files)
def test_python_and_we_read_the_tar_that_we_wrote(files: list[tuple[str, bytes]], tmp_path_factory: Any) -> None:
    data = b"".join(tar_member(*file) for file in files) + TAR_END
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [name for name, _ in files]
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} <= {(0, 0, "", 0o644)}
        contents = [file.read() for member in members if (file := tar.extractfile(member))]
        assert contents == [content for _, content in files]
    assert read_tar(data, tmp_path_factory.getbasetemp() / "ours.tar") == files


def read_tar(data: bytes, path: Path) -> list[tuple[str, bytes]]:
    path.write_bytes(data)
    return [(member.name, data[member.offset :][: member.num_bytes]) for member in read_members(path)]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_other_programs_are_read_and_links_passed_over(tmp_path: Path, kind: int) -> None:
    file = io.BytesIO()
    names = ["a.png", "folder/" + "b" * 90 + ".png", "c" * 80 + "/" + "d" * 90]
    if kind != tarfile.USTAR_FORMAT:
        names += ["é" * 90, "e" * 300, "f/" * 200 + "g"]
    with tarfile.open(fileobj=file, mode="w", format=kind, pax_headers={"comment": "kept"}) as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "l" * 150 if kind != tarfile.USTAR_FORMAT else "l"
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        for info in (link, folder):
            tar.addfile(info)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 1.5 if kind == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(name.encode()[: len(name)]))
    assert [name for name, _ in read_tar(file.getvalue(), tmp_path / "other.tar")] == names


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-0000000001\0", b"77777777777\0"])
def test_a_size_that_cannot_be_is_refused(tmp_path: Path, size: bytes) -> None:
    header = bytearray(tar_member("a", b"")[:512])
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(StoreError, match=r"^/.*bad\.tar: cannot be read as an uncompressed tar "):
        read_tar(bytes(header) + TAR_END, tmp_path / "bad.tar")


BAD_TARS = {
    "empty": b"",
    "no tar": b"not a tar",
    "zipped": b"\x1f\x8b" + bytes(1000),
    "no end": tar_member("a", b"b"),
    "cut short": tar_member("a", b"b" * 2000)[:-600],
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_what_is_no_whole_tar_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"^/.*bad\.tar: cannot be read as an uncompressed tar "):
        read_tar(BAD_TARS[name], tmp_path / "bad.tar")


@pytest.mark.parametrize("num_end_bytes", [512, 1024, 10240, 3 << 20])
@pytest.mark.parametrize("rest", [tar_member("b", b"two") + TAR_END, b"\1"])
def test_a_tar_that_goes_on_behind_its_end_is_refused(tmp_path: Path, num_end_bytes: int, rest: bytes) -> None:
    whole = tar_member("a", b"one") + bytes(num_end_bytes)
    assert read_tar(whole, tmp_path / "one.tar") == [("a", b"one")]
    with pytest.raises(StoreError, match=r"^/.*two\.tar: .*goes on behind its end; .* one by one"):
        read_tar(whole + rest, tmp_path / "two.tar")


def test_no_file_is_longer_than_what_is_left_of_its_tar(tmp_path: Path) -> None:
    (tmp_path / "cut.tar").write_bytes(tar_member("a", b"one") + tar_member("b", bytes(700))[:-400])
    members = read_members(tmp_path / "cut.tar")
    assert next(members).name == "a"
    with pytest.raises(StoreError, match=r"'b' is cut off"):
        next(members)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_the_bytes_a_tar_is_read_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    whole = tar_member("é" * 60, b"one") + tar_member("b", bytes(700)) + TAR_END
    edits = st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=3)
    edited = bytearray(whole)
    for position, value in data.draw(edits):
        edited[position] = value
    mends_checksum = data.draw(st.booleans())
    for start in (0, 1024, 2048) if mends_checksum else ():
        edited[start + 148 : start + 156] = b" " * 8
        edited[start + 148 : start + 156] = b"%06o\0 " % sum(edited[start : start + 512])
    path = tmp_path_factory.getbasetemp() / "edited.tar"
    members = unless_refused(lambda: read_tar(bytes(edited), path), f"{path}: cannot be read as an uncompressed tar ")
    assert members is None or all(len(content) <= len(whole) for _, content in members)
