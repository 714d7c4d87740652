"""One shard: what is written is read, bit for bit, and what was damaged is refused by name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save as serialize

from semdis_cli.errors import StoreError
from semdis_cli.files.atomic import digest_file
from semdis_cli.parts import PARTS, QUANTISED
from semdis_cli.provenance import Provenance
from semdis_cli.records import FileDigest
from semdis_cli.store.shards import STORE_DTYPES, Shard, read_shard, shard_bytes, write_shard
from tests.fuzz.edited_shards import header_of, metadata_text
from tests.store import PLAIN_DTYPES, are_alike, are_equal, make_shard, with_settings

Json = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole shard, not to be changed."""
    path = tmp_path_factory.mktemp("shards") / "whole.safetensors"
    write_shard(path, make_shard())
    return path


# --- whole shards ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PLAIN_DTYPES)
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    shard = make_shard(("a.png", "b/ü \n\udcff.png", "c.webp"), dtype)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, torch.finfo(STORE_DTYPES[dtype]).smallest_normal / 4])
    shard.latents.view(-1)[:5] = odd.to(shard.latents.dtype)
    published = write_shard(tmp_path / "shard", shard)
    assert published == digest_file(tmp_path / "shard")
    assert are_equal(read_shard(tmp_path / "shard"), shard)
    assert are_equal(read_shard(tmp_path / "shard", published), shard)


BYTES = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])  # of names that are no UTF-8


@settings(deadline=None)
@given(
    keys=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]) | BYTES, min_size=1), min_size=1, max_size=5, unique=True
    ),
    dtype=st.sampled_from(sorted(STORE_DTYPES)),
    parts=st.sets(st.sampled_from(PARTS)),
    sides=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_a_file_is_byte_for_byte_what_safetensors_makes_of_its_tensors_and_record(
    keys: list[str], dtype: str, parts: set[str], sides: tuple[int, int]
) -> None:
    shard = make_shard(tuple(keys), dtype, (16 * sides[0], 16 * sides[1]), sorted(parts))
    data = shard_bytes(shard)
    assert data == serialize(shard.tensors, {"semdis": metadata_text(data).decode()})


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
        assert set(file.keys()) == ({"latents", "scale"} if dtype in QUANTISED else {"latents"})
        for name, tensor in shard.tensors.items():
            assert are_alike(file.get_tensor(name), tensor)
            assert are_alike(file.get_slice(name)[1:2], tensor[1:2])


def test_what_is_no_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("missing", "folder", "loop"):
        for expected in (None, FileDigest(1, "0" * 64)):
            with pytest.raises(StoreError, match=f"^{tmp_path / name}: "):
                read_shard(tmp_path / name, expected)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "float16"}, "its dtype or channels are not those of its settings"),
        ({"channels": 4}, "its dtype or channels are not those of its settings"),
        ({"patch_size": 8}, "an image's size does not fit latents of 2x2 positions"),
    ],
    ids=["dtype", "channels", "patch_size"],
)
def test_a_shard_whose_latents_are_not_what_its_settings_say_is_refused(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    write_shard(tmp_path / "shard", with_settings(make_shard(), **changes))
    with pytest.raises(StoreError, match=f"shard: not a semdis shard \\({why}"):
        read_shard(tmp_path / "shard")
