"""The manifest: read as written, and whatever else is in its place refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import PublishedFile, publish
from semdis_cli.provenance import Provenance
from semdis_cli.store.checks import check_shard_name
from semdis_cli.store.manifest import MANIFEST_FILE, Manifest, ShardEntry
from semdis_cli.store.statistics import ChannelSums

Json = dict[str, Any]

MANIFEST = Manifest(
    provenance=Provenance.from_json(
        {"dtype": "bfloat16", "model": {"name": "ü \udcff", "revision": None}, "whitened": True}
    ),
    plan_sha256="ab" * 32,
    num_ok=5,
    num_failed=1,
    num_removed=0,
    num_superseded=0,
    shards=(
        ShardEntry("00000000-1x2.safetensors", 3, PublishedFile(700, "01" * 32)),
        ShardEntry("00000001-2x2.safetensors", 2, PublishedFile(600, "23" * 32)),
    ),
    index=PublishedFile(400, "45" * 32),
    sums=ChannelSums(8, (1.0, -4.0), (8.125, 10.0)),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for manifests; not one that other tests lie in, which would then lie in a set."""
    return tmp_path_factory.mktemp("manifests")


def read_or_none(folder: Path, data: bytes) -> Manifest | None:
    """The manifest, or None if it is refused by the file's name; any other exception is a failure."""
    path = folder / MANIFEST_FILE
    path.write_bytes(data)
    try:
        return Manifest.read(folder)
    except StoreError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    return None


def fields() -> Json:
    parsed = json.loads(MANIFEST.to_bytes())
    assert isinstance(parsed, dict)
    return parsed


# --- as written -----------------------------------------------------------------------------------------------------


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    publish(tmp_path / MANIFEST_FILE, [MANIFEST.to_bytes()])
    assert Manifest.read(tmp_path) == MANIFEST


def test_a_manifest_is_sorted_json_that_people_can_read() -> None:
    text = MANIFEST.to_bytes().decode("ascii")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"


def test_every_sha256_stands_beside_its_file_and_its_size() -> None:
    assert fields()["shards"][0] == {
        "name": "00000000-1x2.safetensors",
        "num_images": 3,
        "num_bytes": 700,
        "sha256": "01" * 32,
    }
    assert fields()["index"] == {"num_bytes": 400, "sha256": "45" * 32}
    assert fields()["totals"] == {"ok": 5, "failed": 1, "removed": 0, "superseded": 0}


# --- anything else --------------------------------------------------------------------------------------------------


def test_without_a_manifest_the_set_is_unfinished_and_the_error_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(StoreError, match=rf"^{tmp_path}: no manifest\.json.*run the same semdis encode again"):
        Manifest.read(tmp_path)


def test_a_folder_in_the_place_of_the_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).mkdir()
    with pytest.raises(StoreError, match=r"manifest\.json: cannot be read \(Is a directory\)"):
        Manifest.read(tmp_path)


def test_a_manifest_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    data = MANIFEST.to_bytes().removesuffix(b"\n")
    for kept in range(len(data)):
        assert read_or_none(tmp_path, data[:kept]) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xfe", id="not UTF-8"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="an empty object"),
        pytest.param(b'"' + b"x" * 1000 + b'"', id="a text"),
        pytest.param(b"[" * 200_000, id="nested without end"),
        pytest.param(b'{"a":' * 200_000, id="objects nested without end"),
        pytest.param(b"9" * 10_000, id="a number without end"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    assert read_or_none(tmp_path, data) is None


CHANGES: dict[str, Json] = {
    "a later format": {"format": 2},
    "no format": {"format": None},
    "totals that are a list": {"totals": [5, 1]},
    "infinitely many images": {"totals": {"ok": float("inf"), "failed": 0}},
    "not a number of images": {"totals": {"ok": float("nan"), "failed": 0}},
    "shards that are a number": {"shards": 5},
    "a shard that is a text": {"shards": ["00000000-1x2.safetensors"]},
    "a shard without a size": {"shards": [{"name": "00000000-1x2.safetensors", "num_images": 1, "sha256": ""}]},
    "no index": {"index": None},
    "provenance that is a text": {"provenance": "mine"},
    "a mean beyond any float": {"latents": {"mean": [10**400], "std": [1.0]}},
    "a mean that is a text": {"latents": {"mean": ["zero"], "std": [1.0]}},
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_manifest_is_refused_that_has(tmp_path: Path, change: str) -> None:
    assert read_or_none(tmp_path, json.dumps({**fields(), **CHANGES[change]}).encode()) is None


@pytest.mark.parametrize("field", sorted(fields()))
def test_a_manifest_without_one_of_its_fields_is_refused(tmp_path: Path, field: str) -> None:
    rest = {name: value for name, value in fields().items() if name != field}
    assert read_or_none(tmp_path, json.dumps(rest).encode()) is None


HOSTILE_NAMES: list[Any] = [
    "",
    ".",
    "..",
    "../00000000-1x2.safetensors",
    "../../etc/passwd",
    "/etc/passwd",
    "/00000000-1x2.safetensors",
    "sub/00000000-1x2.safetensors",
    "..\\00000000-1x2.safetensors",
    "C:00000000-1x2.safetensors",
    "00000000-1x2.safetensors/",
    "00000000-1x2.safetensors\n",
    "00000000-1x2.safetensors\0",
    "00000000-1x2.safetensors/../../x",
    " 00000000-1x2.safetensors",
    "00000000-1x2.SAFETENSORS",
    "00000000-1x2xsafetensors",
    "0-1x2.safetensors",
    "00000000-x.safetensors",
    None,
    5,
    ["00000000-1x2.safetensors"],
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
def test_a_shard_s_name_that_is_a_path_or_no_name_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match="is no shard name"):
        check_shard_name(name)
    shard = {**fields()["shards"][0], "name": name}
    assert read_or_none(tmp_path, json.dumps({**fields(), "shards": [shard]}).encode()) is None


@settings(deadline=None)
@given(name=st.text(min_size=1, max_size=40) | st.from_regex(r"[0-9./\\x-]{1,40}(safetensors)?"))
@example(name="\u0661" * 8 + "-1x2.safetensors")
def test_a_shard_s_name_leads_nowhere_but_into_the_folder(name: str) -> None:
    try:
        checked = check_shard_name(name)
    except ValueError:
        return
    assert checked == name
    assert checked.isascii()
    assert Path(checked).name == checked


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -1, "", "0" * 64, "00000000-1x2.safetensors"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside `value`."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        inner = []
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


@settings(deadline=None, max_examples=300)
@given(place=st.sampled_from(places(fields())[1:]), value=json_values)
def test_nonsense_anywhere_in_a_manifest_is_refused_or_harmless(
    place: tuple[Any, ...], value: Any, scratch: Path
) -> None:
    changed = fields()
    parent: Any = changed
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    read_or_none(scratch, json.dumps(changed).encode())


@settings(deadline=None)
@given(value=json_values)
def test_json_of_any_kind_is_no_manifest(value: Any, scratch: Path) -> None:
    assert read_or_none(scratch, json.dumps(value).encode()) is None
