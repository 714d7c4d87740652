"""What may be in the place of a manifest, at every door: refused by its name, and touched by nobody."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from semdis_cli.dataset.latent_dataset import LatentDataset
from semdis_cli.errors import StoreError
from semdis_cli.files.set_names import MANIFEST_FILE
from semdis_cli.store.checks import check_shard_name
from semdis_cli.store.manifest import Manifest
from semdis_cli.store.reader import open_latents
from tests.store import write_set
from tests.store.test_manifest import MANIFEST, Json, fields
from tests.store.test_verify import told

DOORS: dict[str, Callable[[Path], object]] = {
    "read": Manifest.read,
    "open": open_latents,
    "train": LatentDataset,
    "go on": write_set,
}


@pytest.fixture
def root(finished_set: Path, tmp_path: Path) -> Path:
    """A set whose manifest is to be replaced."""
    return Path(shutil.copytree(finished_set, tmp_path / "set"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for manifests; not one that other tests lie in, which would then lie in a set."""
    return tmp_path_factory.mktemp("manifests")


def fields_of(root: Path) -> Json:
    parsed = json.loads((root / MANIFEST_FILE).read_bytes())
    assert isinstance(parsed, dict)
    return parsed


def refused_at_every_door(root: Path, data: bytes) -> None:
    """The manifest is refused by name, and told by `verify`, and nothing is written."""
    path = root / MANIFEST_FILE
    path.write_bytes(data)
    for name, door in DOORS.items():
        with pytest.raises(StoreError) as refused:
            door(root)
        assert str(refused.value).startswith(f"{path}: "), name
    assert (MANIFEST_FILE, "manifest") in told(root)
    assert path.read_bytes() == data


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


def test_a_manifest_cut_short_anywhere_is_refused(scratch: Path) -> None:
    data = MANIFEST.to_bytes().removesuffix(b"\n")
    for kept in range(len(data)):
        assert read_or_none(scratch, data[:kept]) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="not JSON"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b'{"format": 1}', id="a format and nothing else"),
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
def test_what_is_no_manifest_is_refused_by_name(root: Path, data: bytes) -> None:
    refused_at_every_door(root, data)


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
def test_a_manifest_is_refused_that_has(root: Path, change: str) -> None:
    refused_at_every_door(root, json.dumps({**fields_of(root), **CHANGES[change]}).encode())


@pytest.mark.parametrize("field", sorted(fields()))
def test_a_manifest_without_one_of_its_fields_is_refused(root: Path, field: str) -> None:
    rest = {name: value for name, value in fields_of(root).items() if name != field}
    refused_at_every_door(root, json.dumps(rest).encode())


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
def test_a_shard_s_name_that_is_a_path_or_no_name_is_refused(root: Path, name: object) -> None:
    with pytest.raises(ValueError, match="is no shard name"):
        check_shard_name(name)
    first, *others = fields_of(root)["shards"]
    changed = {**fields_of(root), "shards": [{**first, "name": name}, *others]}
    refused_at_every_door(root, json.dumps(changed).encode())


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
