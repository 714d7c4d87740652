"""Files of columns of tensors: each tensor is found again to the byte, whatever is added, replaced and gone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from semdis_cli.errors import StoreError
from semdis_cli.files.set_names import COLUMN_FOLDER
from semdis_cli.store.tensors.file import PLACES_A_SHARD, place_of, read_tables
from semdis_cli.store.tensors.kinds import BYTES_PER_VALUE, TensorKind, check_tensor_name, is_tensor_name
from semdis_cli.store.tensors.listed import TensorColumn, column_of, tensors_from_json, tensors_to_json
from semdis_cli.store.tensors.reader import TensorReader
from semdis_cli.store.writing.tensors import ColumnWriter, NewTensors, move_tensors, next_number, recounted
from tests.store import flip_last_bit

FLOATS = TensorKind("float16", (3,))
Tensors = Mapping[int, bytes]  # by place


def values(num_rows: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(num_rows * FLOATS.row_bytes)


def add(
    root: Path, column: TensorColumn | None, new: Tensors, known: set[int], kind: TensorKind = FLOATS
) -> TensorColumn | None:
    """The column after new tensors, in files of 32 bytes; the latents at `known` are in the index, and served."""
    places = np.array(sorted(new), dtype=np.int64)
    everything = np.array(sorted(known), dtype=np.int64)
    writer = ColumnWriter(root, root / "written", everything, everything, file_bytes=32)

    def read(number: int) -> tuple[int, bytes]:
        data = new[int(places[number])]
        return len(data) // kind.row_bytes, data

    first = 0 if column is None else next_number({"t5": column})
    after = writer.write(NewTensors("t5", kind, places, read), column, first)
    move_tensors(root / "written", root)
    return after


def contents(root: Path, column: TensorColumn, places: set[int]) -> dict[int, bytes]:
    """What is found at `places`."""
    reader = TensorReader(root, column, verify=True)
    found = {place: reader.find_bytes(place) for place in places}
    return {place: bytes(rows[1]) for place, rows in found.items() if rows is not None}


PLACES = st.builds(lambda shard, row: shard * PLACES_A_SHARD + row, st.integers(0, 3), st.integers(0, 4))
BATCHES = st.lists(st.tuples(st.dictionaries(PLACES, st.integers(0, 5)), st.sets(PLACES)), min_size=1, max_size=4)


@settings(deadline=None)
@given(batches=BATCHES)
def test_tensors_that_were_added_in_any_order_are_found_again(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[dict[int, int], set[int]]]
) -> None:
    root, column = tmp_path_factory.mktemp("set"), None
    expected: dict[int, bytes] = {}
    everything = {shard * PLACES_A_SHARD + row for shard in range(4) for row in range(5)}
    for number, (lengths, gone) in enumerate(batches):
        new = {place: values(length, number * 100 + place % 97) for place, length in lengths.items()}
        known = everything - gone | new.keys()
        column = add(root, column, new, known)
        expected |= new
        if column is None:
            assert not expected
            continue
        assert tensors_from_json(tensors_to_json({"t5": column})) == {"t5": column}
        found = contents(root, column, everything)
        assert {place: data for place, data in found.items() if place in known} == {
            place: data for place, data in expected.items() if place in known
        }
        assert column.num_images == len(found.keys() & known)
        expected = {place: data for place, data in expected.items() if place in found}
        listed = [read_tables(root / COLUMN_FOLDER, FLOATS, file)[0] for file in column.files]
        assert len(np.unique(np.concatenate(listed))) == sum(map(len, listed)), "two tensors of one image"
        served = np.array(sorted(everything), dtype=np.int64)
        assert recounted(root, {"t5": column}, served)["t5"].num_images == len(found)


def test_neighbours_lie_together_in_files_of_limited_size(tmp_path: Path) -> None:
    new = {place_of(f"{shard:08d}-2x2.safetensors", row): values(2, row) for shard in (1, 0) for row in range(4)}
    column = add(tmp_path, None, new, set(new))
    assert column is not None
    assert [(file.name, file.num_images, file.shards) for file in column.files] == [
        ("00000000-t5.safetensors", 2, (0, 0)),
        ("00000001-t5.safetensors", 2, (0, 0)),
        ("00000002-t5.safetensors", 2, (1, 1)),
        ("00000003-t5.safetensors", 2, (1, 1)),
    ]


def test_files_in_which_nothing_is_replaced_stay(tmp_path: Path) -> None:
    first = add(tmp_path, None, {place: values(2, place) for place in range(8)}, set(range(8)))
    assert first is not None
    second = add(tmp_path, first, {2: values(1, 99), 11: values(3, 11)}, set(range(12)))
    assert second is not None
    assert [file.name for file in second.files] == [
        *("00000000-t5.safetensors", "00000002-t5.safetensors", "00000003-t5.safetensors"),
        *("00000004-t5.safetensors", "00000005-t5.safetensors"),
    ]
    assert (second.files[0], second.num_images, second.lengths) == (first.files[0], 9, (1, 3))


def test_the_same_tensors_again_leave_all_files_as_they_are(tmp_path: Path) -> None:
    new = {place: values(2, place) for place in range(5)}
    first = add(tmp_path, None, new, set(new))
    assert add(tmp_path, first, new, set(new)) == first
    assert list((tmp_path / "written").iterdir()) == []


@pytest.mark.parametrize("dtype", BYTES_PER_VALUE)
@pytest.mark.parametrize("shape", [(), (2,), (0, 3), (2, 3)])
def test_every_dtype_and_shape_comes_back_and_safetensors_reads_the_file(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    kind = TensorKind.of(dtype, shape)
    num_rows = shape[0] if shape else 1
    data = bytes(np.random.default_rng(7).integers(0, 2, num_rows * kind.row_bytes, dtype=np.uint8))
    column = add(tmp_path, None, {5: data}, {5}, kind)
    assert column is not None
    tensor = TensorReader(tmp_path, column).find("00000000-1x1.safetensors", 5)
    assert tensor is not None
    assert (tensor.dtype, tuple(tensor.shape)) == (getattr(torch, dtype), shape)
    assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == data
    assert (tensor.untyped_storage().nbytes(), TensorReader(tmp_path, column).find("00000000-1x1.safetensors", 4)) == (
        *(len(data),),
        None,
    )
    with safe_open(tmp_path / COLUMN_FOLDER / column.files[0].name, "pt") as file:
        stored = file.get_tensor("values")
        assert (file.get_tensor("places").tolist(), file.get_tensor("starts").tolist()) == ([5], [0, num_rows])
    assert stored.reshape(-1).view(torch.uint8).numpy().tobytes() == data


def test_a_file_that_is_another_one_is_refused(tmp_path: Path) -> None:
    column = add(tmp_path, None, {place: values(2, place) for place in range(4)}, set(range(4)))
    assert column is not None
    path = tmp_path / COLUMN_FOLDER / column.files[0].name
    good = path.read_bytes()
    reader = TensorReader(tmp_path, column)
    for bad, reason in (
        (good[:-1], "bytes, but the manifest says"),
        (good.replace(b"t5", b"t6"), "its header is not"),
        (good.replace(b"F16", b"I16"), "its header is not"),
        (good[: -2 * 3 * 2 * 2 - 8 * 5] + bytes(8 * 5) + good[-2 * 3 * 2 * 2 :], "the places of its tensors are not"),
    ):
        path.write_bytes(bad)
        with pytest.raises(StoreError, match=reason):
            TensorReader(tmp_path, column)
    path.write_bytes(good)
    flip_last_bit(path)
    TensorReader(tmp_path, column)
    with pytest.raises(StoreError, match="do not match the sha256"):
        TensorReader(tmp_path, column, verify=True)
    with pytest.raises(StoreError, match="open it again"):  # it was opened before
        reader.find("00000000-1x1.safetensors", 0)


@pytest.mark.parametrize("name", ["t5", "T5_xxl", "clip.pooled", "a" * 64, "0+1-2"])
def test_names_that_columns_can_have(name: str) -> None:
    assert check_tensor_name(name) == name
    assert column_of(f"00000017-{name}.safetensors") == name


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".t5", "-t5", "a" * 65, "ü", "a b", "a\n", "a\0", "label", "caption", 5]
)
def test_names_that_no_column_can_have(name: object) -> None:
    assert not (isinstance(name, str) and is_tensor_name(name))
    with pytest.raises(ValueError, match="no name of a column"):
        check_tensor_name(name)
    assert column_of(f"00000017-{name}.safetensors") is None or name == 5


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_json_makes_a_column_of_a_manifest_but_one_that_is_written_so(value: object) -> None:
    try:
        columns = tensors_from_json(value)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return
    assert tensors_to_json(columns) == value


def test_a_manifest_lists_no_file_of_another_column_nor_two_of_one_number(tmp_path: Path) -> None:
    column = add(tmp_path, None, {place: values(2, place) for place in range(4)}, set(range(4)))
    assert column is not None
    first, second = column.files
    for files in ((), (replace(first, name="00000000-t6.safetensors"),), (first, replace(second, name=first.name))):
        with pytest.raises(ValueError, match="file"):
            tensors_from_json(tensors_to_json({"t5": replace(column, files=files)}))
    for changed in (replace(first, name="../00000000-t5.safetensors"), replace(first, num_images=0)):
        with pytest.raises(ValueError, match="t5"):
            tensors_from_json(tensors_to_json({"t5": replace(column, files=(changed,))}))
