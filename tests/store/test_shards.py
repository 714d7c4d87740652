"""One shard: what is written is read, bit for bit, and what was damaged is refused by name."""

import hashlib
import json
import math
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PublishedFile
from semdis_cli.provenance import Provenance
from semdis_cli.store.shard_header import canonical_json
from semdis_cli.store.shards import STORE_DTYPES, Shard, read_shard, write_shard
from tests.files.test_atomic import umask
from tests.store import are_equal, geometry_of, have_equal_latents, make_shard

Json = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole shard, not to be changed."""
    path = tmp_path_factory.mktemp("shards") / "whole.safetensors"
    write_shard(path, make_shard())
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A path for damaged shards."""
    return tmp_path_factory.mktemp("shards") / "damaged.safetensors"


def payload_start(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def header_of(data: bytes) -> Json:
    header = json.loads(data[8 : payload_start(data)])
    assert isinstance(header, dict)
    return header


def metadata_of(data: bytes) -> Json:
    metadata = json.loads(header_of(data)["__metadata__"]["semdis"])
    assert isinstance(metadata, dict)
    return metadata


def assemble(header: bytes | Json, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + payload


def unaligned(data: bytes, num_spaces: int) -> bytes:
    """The shard with so many spaces more behind its header."""
    start = payload_start(data)
    return (start - 8 + num_spaces).to_bytes(8, "little") + data[8:start] + b" " * num_spaces + data[start:]


def edited_header(data: bytes, **changes: Any) -> bytes:
    return assemble({**header_of(data), **changes}, data[payload_start(data) :])


def edited_tensor(data: bytes, **changes: Any) -> bytes:
    return edited_header(data, latents={**header_of(data)["latents"], **changes})


def edited_metadata(data: bytes, **changes: Any) -> bytes:
    """The shard with another record, and the hash of that record: the edit of somebody who knows the format."""
    record = {name: value for name, value in {**metadata_of(data), **changes}.items() if name != "record_sha256"}
    record["record_sha256"] = hashlib.sha256(canonical_json(record).encode()).hexdigest()
    return edited_header(data, __metadata__={"semdis": canonical_json({**record, **changes})})


def without_settings(data: bytes) -> bytes:
    """The shard with a record in which `provenance` is not there at all, and that is hashed so."""
    record = {name: value for name, value in metadata_of(data).items() if name not in {"record_sha256", "provenance"}}
    record["record_sha256"] = hashlib.sha256(canonical_json(record).encode()).hexdigest()
    return edited_header(data, __metadata__={"semdis": canonical_json(record)})


def read_or_none(path: Path, data: bytes, expected: PublishedFile | None = None) -> Shard | None:
    """The shard in `data`, or None if it is refused by the file's name; any other exception is a failure."""
    path.write_bytes(data)
    try:
        return read_shard(path, expected)
    except StoreError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    return None


# --- whole shards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(STORE_DTYPES))
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    shard = make_shard(("a.png", "b/ü \n\udcff.png", "c.webp"), dtype)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, torch.finfo(STORE_DTYPES[dtype]).smallest_normal / 4])
    shard.latents.view(-1)[:5] = odd.to(shard.latents.dtype)
    published = write_shard(tmp_path / "shard", shard)
    assert published == PublishedFile.of(tmp_path / "shard")
    assert are_equal(read_shard(tmp_path / "shard"), shard)
    assert are_equal(read_shard(tmp_path / "shard", published), shard)


@pytest.mark.parametrize("num_images", [1, 100])
def test_a_shard_holds_as_many_rows_as_it_is_given(tmp_path: Path, num_images: int) -> None:
    shard = make_shard(tuple(f"{number:03d}.png" for number in range(num_images)))
    write_shard(tmp_path / "shard", shard)
    assert are_equal(read_shard(tmp_path / "shard"), shard)


def test_equal_shards_give_equal_bytes_however_they_lie_in_memory(tmp_path: Path, written: Path) -> None:
    shard = make_shard()
    transposed = shard.latents.transpose(0, 3).contiguous().transpose(0, 3)
    reordered = Provenance.from_json(dict(reversed(shard.provenance.to_json().items())))
    write_shard(tmp_path / "shard", Shard(transposed, shard.records, reordered))
    assert not transposed.is_contiguous()
    assert (tmp_path / "shard").read_bytes() == written.read_bytes()


def test_the_metadata_are_one_key_with_sorted_json(written: Path) -> None:
    assert set(header_of(written.read_bytes())) == {"__metadata__", "latents"}
    with safe_open(written, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["semdis"]
    assert metadata["semdis"] == json.dumps(json.loads(metadata["semdis"]), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize("dtype", list(STORE_DTYPES))
def test_the_format_s_own_loader_reads_a_shard(tmp_path: Path, dtype: str) -> None:
    shard = make_shard(dtype=dtype)
    write_shard(tmp_path / "shard", shard)
    with safe_open(tmp_path / "shard", framework="pt") as file:
        assert list(file.keys()) == ["latents"]
        assert torch.equal(file.get_tensor("latents"), shard.latents)
        assert torch.equal(file.get_slice("latents")[1:2], shard.latents[1:2])


def test_numpy_reads_a_shard_without_torch(tmp_path: Path) -> None:
    shard = make_shard(dtype="float32")
    write_shard(tmp_path / "shard", shard)
    loaded = safetensors.numpy.load_file(tmp_path / "shard")
    assert loaded["latents"].tolist() == shard.latents.tolist()


def test_others_may_read_a_shard(tmp_path: Path) -> None:
    with umask(0o022):
        write_shard(tmp_path / "shard", make_shard())
    assert (tmp_path / "shard").stat().st_mode & 0o777 == 0o644


# --- flipped bits ---------------------------------------------------------------------------------------------------
#
# With the manifest's sha256 every flipped bit is found. A shard on its own answers for its latents and its record; what
# goes unnoticed (a space for a tab, a capital in an escape) changes nothing of either.


def flipped(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def test_every_flipped_bit_is_found_with_the_manifest(written: Path, scratch: Path) -> None:
    data, expected = written.read_bytes(), PublishedFile.of(written)
    for position in range(len(data)):
        damaged = flipped(data, position, position % 8)
        assert read_or_none(scratch, damaged, expected) is None, f"byte {position}"


def test_no_flipped_bit_changes_anything_of_a_shard_on_its_own(written: Path, scratch: Path) -> None:
    data, whole = written.read_bytes(), read_shard(written)
    text = json.dumps(header_of(data)["__metadata__"]["semdis"]).encode()[1:-1]
    metadata_start = data.index(text)
    metadata = range(metadata_start, metadata_start + len(text))
    for position in range(len(data)):
        for bit in {position % 8, 5} if position in metadata else range(8):
            shard = read_or_none(scratch, flipped(data, position, bit))
            if shard is not None:
                assert position in metadata, f"byte {position} bit {bit} went unnoticed"
                assert are_equal(shard, whole)


def test_a_shard_cut_short_anywhere_is_refused(written: Path, scratch: Path) -> None:
    data, expected = written.read_bytes(), PublishedFile.of(written)
    for kept in range(len(data)):
        assert read_or_none(scratch, data[:kept]) is None, f"{kept} of {len(data)} bytes"
        assert read_or_none(scratch, data[:kept], expected) is None


def test_the_size_in_the_manifest_is_held_against_the_file_first(written: Path, scratch: Path) -> None:
    data, expected = written.read_bytes(), PublishedFile.of(written)
    scratch.write_bytes(data + b"\0")
    with pytest.raises(StoreError, match=f"{len(data) + 1} bytes, but the manifest says {len(data)}; damaged"):
        read_shard(scratch, expected)


# --- edited shards --------------------------------------------------------------------------------------------------

NO_GEOMETRY: list[Any] = [
    None,
    [],
    {},
    {**geometry_of((32, 32)).to_json(), "more": [1, 1]},
    {**geometry_of((32, 32)).to_json(), "source": [0, 5]},
    {**geometry_of((32, 32)).to_json(), "source": [1.0, 5]},
    {**geometry_of((32, 32)).to_json(), "source": [True, 5]},
    {**geometry_of((32, 32)).to_json(), "source": [2**31, 5]},
    {**geometry_of((32, 32)).to_json(), "crop": [-1, 0]},
    {**geometry_of((32, 32)).to_json(), "crop": [0, 40]},
    {**geometry_of((32, 32)).to_json(), "image": [33, 31]},
    {**geometry_of((32, 32)).to_json(), "bucket": [32]},
]
THREE_ROWS: Json = {"keys": ["a", "b", "c"], "geometry": [geometry_of((32, 32)).to_json()] * 3}

EDITS: dict[str, Callable[[bytes], bytes]] = {
    "dtype of equal width": lambda data: edited_tensor(data, dtype="F16"),
    "dtype of integers": lambda data: edited_tensor(data, dtype="I16"),
    "dtype of another width": lambda data: edited_tensor(data, dtype="F32"),
    "dtype unknown": lambda data: edited_tensor(data, dtype="BF17"),
    "dtype in the metadata": lambda data: edited_metadata(data, dtype="float16"),
    "dtype unknown in the metadata": lambda data: edited_metadata(data, dtype="float64"),
    "dtype in the metadata no name": lambda data: edited_metadata(data, dtype=["bfloat16"]),
    "shape of equal size": lambda data: edited_tensor(data, shape=[3, 2, 2, 2]),
    "shape of another size": lambda data: edited_tensor(data, shape=[2, 3, 2, 3]),
    "shape of fewer axes": lambda data: edited_tensor(data, shape=[24]),
    "shape in the metadata": lambda data: edited_metadata(data, shape=[3, 2, 2, 2]),
    "shape in both": lambda data: edited_tensor(edited_metadata(data, shape=[3, 2, 2, 2]), shape=[3, 2, 2, 2]),
    "shape of five axes in both": lambda data: edited_tensor(
        edited_metadata(data, shape=[2, 3, 2, 2, 1]), shape=[2, 3, 2, 2, 1]
    ),
    "shape without axes in both": lambda data: assemble(
        {
            "latents": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]},
            "__metadata__": {"semdis": json.dumps({**metadata_of(data), "shape": []})},
        },
        b"\0\0",
    ),
    "shape of nothing beyond all bounds": lambda data: assemble(
        {**header_of(data), "latents": {"dtype": "BF16", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""
    ),
    "shape beyond 64 bits": lambda data: edited_tensor(data, shape=[2**64, 3, 2, 2]),
    "offsets that leave a gap": lambda data: assemble(
        {**header_of(data), "latents": {**header_of(data)["latents"], "data_offsets": [2, 50]}},
        b"\0\0" + data[payload_start(data) :],
    ),
    "offsets beyond the end": lambda data: edited_tensor(data, data_offsets=[0, 2**40]),
    "offsets reversed": lambda data: edited_tensor(data, data_offsets=[48, 0]),
    "offsets too short": lambda data: edited_tensor(data, data_offsets=[0, 46]),
    "bytes after the latents": lambda data: data + b"\0\0",
    "one more tensor": lambda data: assemble(
        {**header_of(data), "more": {"dtype": "BF16", "shape": [1], "data_offsets": [48, 50]}},
        data[payload_start(data) :] + b"\0\0",
    ),
    "one more tensor, empty": lambda data: edited_header(
        data, more={"dtype": "BF16", "shape": [0], "data_offsets": [48, 48]}
    ),
    "tensor of another name": lambda data: assemble(
        {"latent": header_of(data)["latents"], "__metadata__": header_of(data)["__metadata__"]},
        data[payload_start(data) :],
    ),
    "shape of fractions": lambda data: edited_tensor(data, shape=[2.0, 3, 2, 2]),
    "one more key beside the record": lambda data: edited_header(
        data, __metadata__={**header_of(data)["__metadata__"], "format": "pt"}
    ),
    "one more field in the tensor": lambda data: edited_tensor(data, more=1),
    "one more field in the record": lambda data: edited_metadata(data, more=1),
    "one field of the record less": without_settings,
    "header formatted anew": lambda data: assemble(
        json.dumps(header_of(data), indent=1).encode(), data[payload_start(data) :]
    ),
    "header without padding to eight bytes": lambda data: unaligned(data, 1),
    "header with more padding than to eight bytes": lambda data: unaligned(data, 8),
    "header in another order": lambda data: assemble(
        dict(reversed(header_of(data).items())), data[payload_start(data) :]
    ),
    "a key twice": lambda data: assemble(
        data[8 : payload_start(data)].replace(b'{"__metadata__"', b'{"__metadata__":{},"__metadata__"', 1),
        data[payload_start(data) :],
    ),
    "no tensor": lambda data: assemble({"__metadata__": header_of(data)["__metadata__"]}, b""),
    "no metadata": lambda data: assemble({"latents": header_of(data)["latents"]}, data[payload_start(data) :]),
    "empty metadata": lambda data: edited_header(data, __metadata__={}),
    "metadata of others": lambda data: edited_header(data, __metadata__={"format": "pt"}),
    "metadata not JSON": lambda data: edited_header(data, __metadata__={"semdis": "{"}),
    "metadata empty text": lambda data: edited_header(data, __metadata__={"semdis": ""}),
    "metadata a list": lambda data: edited_header(data, __metadata__={"semdis": "[]"}),
    "metadata null": lambda data: edited_header(data, __metadata__={"semdis": "null"}),
    "metadata without end": lambda data: edited_header(data, __metadata__={"semdis": "[" * 100_000}),
    "metadata of a later format": lambda data: edited_metadata(data, format=2),
    "metadata of no format": lambda data: edited_metadata(data, format=None),
    "sha256 of other latents": lambda data: edited_metadata(data, latents_sha256="0" * 64),
    "sha256 missing": lambda data: edited_metadata(data, latents_sha256=None),
    "fewer keys": lambda data: edited_metadata(data, keys=["a"]),
    "more keys": lambda data: edited_metadata(data, keys=["a", "b", "c"]),
    "more keys and geometries": lambda data: edited_metadata(data, **THREE_ROWS),
    "fewer geometries": lambda data: edited_metadata(data, geometry=[geometry_of((32, 32)).to_json()]),
    "keys a number": lambda data: edited_metadata(data, keys=2),
    "keys no texts": lambda data: edited_metadata(data, keys=["a", 2]),
    "keys one text": lambda data: edited_metadata(data, keys="ab"),
    "keys an object": lambda data: edited_metadata(data, keys={"a": 1, "b": 2}),
    "one key twice": lambda data: edited_metadata(data, keys=["a", "a"]),
    "provenance no object": lambda data: edited_metadata(data, provenance=[]),
    "header not JSON": lambda data: assemble(b"latents!", data[payload_start(data) :]),
    "header a list": lambda _: assemble(b"[]", b""),
    "header without end": lambda _: assemble(b"[" * 1_000_000, b""),
    "text": lambda _: b"This is not a shard, but a letter about one.\n" * 20,
} | {
    f"geometry {number}": lambda data, bad=value: edited_metadata(data, geometry=[geometry_of((32, 32)).to_json(), bad])
    for number, value in enumerate(NO_GEOMETRY)
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_an_edited_shard_is_refused_by_name(written: Path, scratch: Path, edit: str) -> None:
    data = EDITS[edit](written.read_bytes())
    assert read_or_none(scratch, data) is None
    assert read_or_none(scratch, data, PublishedFile.of(written)) is None


def test_the_tools_of_these_tests_alone_damage_nothing(written: Path, scratch: Path) -> None:
    data = written.read_bytes()
    for same in (edited_header(data), edited_tensor(data), edited_metadata(data)):
        shard = read_or_none(scratch, same)
        assert shard is not None
        assert are_equal(shard, make_shard())


@pytest.mark.parametrize("length", [0, 2**20, 99_999_999, 100_000_001, 2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_huge_header_length_is_refused_before_anything_is_allocated(
    written: Path, scratch: Path, length: int
) -> None:
    data = length.to_bytes(8, "little") + written.read_bytes()[8:]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        assert read_or_none(scratch, data) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14  # KiB


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("missing", "folder", "loop"):
        for expected in (None, PublishedFile(1, "0" * 64)):
            with pytest.raises(StoreError, match=f"^{tmp_path / name}: "):
                read_shard(tmp_path / name, expected)


# --- anything at all ------------------------------------------------------------------------------------------------

Mutation = Callable[[bytes], bytes]


def replace(position: float, part: bytes) -> Mutation:
    def mutate(data: bytes) -> bytes:
        start = int(position * len(data))
        return data[:start] + part + data[start + len(part) :]

    return mutate


def insert(position: float, part: bytes) -> Mutation:
    return lambda data: data[: int(position * len(data))] + part + data[int(position * len(data)) :]


def delete(position: float, length: int) -> Mutation:
    return lambda data: data[: int(position * len(data))] + data[int(position * len(data)) + length :]


def replace_number(which: int, number: int) -> Mutation:
    """Another number in the place of one of the header's, its length corrected."""

    def mutate(data: bytes) -> bytes:
        header, payload = data[8 : payload_start(data)], data[payload_start(data) :]
        digits = [place for place, byte in enumerate(header) if 48 <= byte <= 57]
        place = digits[which % len(digits)] if digits else 0
        return assemble(header[:place] + str(number).encode() + header[place + 1 :], payload)

    return mutate


positions = st.floats(0, 1)
parts = st.one_of(st.binary(max_size=8), st.sampled_from([b'"', b"[", b"}", b"\\u0000", b"1e999", b"NaN", b"-", b"  "]))
mutations = st.lists(
    st.one_of(
        st.builds(replace, positions, parts),
        st.builds(insert, positions, parts),
        st.builds(delete, positions, st.integers(1, 64)),
        st.builds(replace_number, st.integers(0, 10_000), st.one_of(st.integers(), st.sampled_from([2**31, 2**64]))),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(mutations=mutations)
def test_whatever_happens_to_its_bytes_a_shard_is_refused_or_has_its_latents(
    written: Path, scratch: Path, mutations: list[Mutation]
) -> None:
    whole, damaged = written.read_bytes(), written.read_bytes()
    for mutate in mutations:
        damaged = mutate(damaged)
    shard = read_or_none(scratch, damaged)
    assert shard is None or have_equal_latents(shard, make_shard())
    checked = read_or_none(scratch, damaged, PublishedFile.of(written))
    assert (checked is not None) == (damaged == whole)


@settings(max_examples=100, deadline=None)
@example(header=b"{}", payload=b"")
@example(header=b'{"latents":{"dtype":"BF16","shape":[0,0,0,0],"data_offsets":[0,0]}}', payload=b"")
@given(header=st.binary(max_size=64), payload=st.binary(max_size=64))
def test_bytes_of_any_kind_are_no_shard(scratch: Path, header: bytes, payload: bytes) -> None:
    assert read_or_none(scratch, header + payload) is None
    assert read_or_none(scratch, assemble(header, payload)) is None
