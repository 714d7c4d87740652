"""Bytes that nobody wrote on purpose, or that somebody did: every reader of the store takes or refuses them."""

import hashlib
import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdis_cli.errors import SemdisError
from semdis_cli.store.verifying.index_table import read_index
from tests.fuzz.edited_shards import edited_header
from tests.fuzz.targets import TARGETS, Target, manifest, seeds, shard, vouched_shard
from tests.store import peak_bytes, problems

Edit = tuple[int, int, bytes]

# What is easily mistaken for something else in JSON and in headers.
ODDITIES = st.sampled_from(
    [b"", b"null", b"NaN", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b"[]", b"{}", b'""', b"true", b"0.5", b"\xff",
     b"\0", b'"\\ud800"', b'"../x"', b"[" * 50, b'{"a":1,"a":2}', b"18446744073709551616", b"\n", b'"\\u0000"']
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.integers(0, 2**16), st.integers(0, 40), st.one_of(ODDITIES, st.binary(max_size=12))), max_size=4
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[Target, list[bytes]]:
    return seeds(tmp_path_factory.mktemp("seeds"))


def edited(data: bytes, edits: list[Edit]) -> bytes:
    """`data` with some bytes replaced, put in or left out."""
    for place, length, new in edits:
        start = place % (len(data) + 1)
        data = data[:start] + new + data[start + length :]
    return data


def run(target: Target, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(SemdisError):
        target(data, Path(folder))


@pytest.mark.parametrize(
    "target", [target for target in TARGETS if target is not manifest], ids=lambda target: target.__name__
)
def test_good_input_is_taken(good: dict[Target, list[bytes]], target: Target, tmp_path: Path) -> None:
    for number, data in enumerate(good[target]):
        (tmp_path / str(number)).mkdir()
        target(data, tmp_path / str(number))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_edited_input_is_taken_or_refused(good: dict[Target, list[bytes]], target: Target) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(good[target]), EDITS)
    def check(data: bytes, edits: list[Edit]) -> None:
        run(target, edited(data, edits))

    check()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(TARGETS))
def test_any_bytes_are_taken_or_refused(data: bytes, target: Target) -> None:
    run(target, data)


def nested_record(record: bytes, depth: int) -> bytes:
    """A shard whose settings are nested so deeply, and whose hashes all fit."""
    text = record.replace(b'"whitened":true', b'"whitened":' + b"[" * depth + b"]" * depth)
    text = re.sub(rb',"record_sha256":"[0-9a-f]{64}"', b"", text)
    digest = hashlib.sha256(text).hexdigest().encode()
    return text.replace(b',"shape":', b',"record_sha256":"' + digest + b'","shape":')


def test_settings_that_are_nested_at_the_limit_of_what_can_be_parsed(good: dict[Target, list[bytes]]) -> None:
    data, record = good[shard][0], good[vouched_shard][0]
    for depth in (*range(100, 800, 100), *range(850, 1010)):
        run(shard, edited_header(data, __metadata__={"semdis": nested_record(record, depth).decode()}))


@pytest.mark.parametrize(
    "shape", [[1, 1, 2**20, 2**20], [2**62, 1, 1, 1], [2**31, 2**31, 2**31, 2**31], [10**300, 1, 1, 1]]
)
@pytest.mark.parametrize("field", ["shape", "patch_size", "channels"])
def test_a_record_that_claims_to_be_large_takes_no_memory(
    good: dict[Target, list[bytes]], shape: list[int], field: str
) -> None:
    record = json.loads(good[vouched_shard][0])
    if field == "shape":
        record["shape"] = shape
    else:
        record["shape"] = [*record["shape"][:2], 2**20, 1]
        record["provenance"][field] = "x" * 1000 if shape[0] == 1 else shape[0]
    assert peak_bytes(lambda: run(vouched_shard, json.dumps(record).encode())) < 2**20


@pytest.mark.parametrize("filling", [b"[],", b"{},", b'"",', b"0,", b"[[[],[]],0.5],"])
def test_the_memory_that_a_header_takes_is_in_proportion_to_it(tmp_path: Path, filling: bytes) -> None:
    path = tmp_path / "shard"
    text = b'{"__metadata__":{"semdis":[' + filling * (2**18 // len(filling)) + b"0]}}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert peak_bytes(lambda: problems(path)) < 40 * len(text)


@pytest.mark.parametrize("filling", [b"[],", b"{},", b"0,"])
def test_the_memory_that_a_line_takes_is_that_of_a_part_of_it(tmp_path: Path, filling: bytes) -> None:
    """A line that never ends is not read whole."""
    (tmp_path / "index.jsonl").write_bytes(b"[" + filling * (2**21 // len(filling)))
    found: list[object] = []
    assert peak_bytes(lambda: found.extend(read_index(tmp_path, None))) < 40 * 2**20  # of a line, 1 MiB is looked at
    assert found
