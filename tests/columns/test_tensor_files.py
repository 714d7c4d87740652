"""Tensors in files of other programs: all that can be kept comes to the byte, and nothing else is believed."""

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from semdis_cli.columns.tensor_files import BadTensor, ForeignTensor, list_tensors, read_tensor
from semdis_cli.store.tensors.kinds import BYTES_PER_VALUE, TensorKind

DTYPES = ["<f2", "<f4", "<f8", ">f4", "<i8", ">i2", "|i1", "|u1", "<u2", "<u4", "<u8", "|b1", "<c8"]
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple) | st.just((0, 3))


def good(path: Path) -> list[ForeignTensor]:
    return [tensor for tensor in list_tensors(path) if isinstance(tensor, ForeignTensor)]


def bad(path: Path) -> list[str]:
    return [tensor.reason for tensor in list_tensors(path) if isinstance(tensor, BadTensor)]


def values(dtype: str, shape: tuple[int, ...], *, is_fortran: bool = False) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(3).integers(0, 2, shape)
    return np.asarray(drawn, dtype, order="F" if is_fortran else "C")


def write_safetensors(path: Path, tensors: Mapping[str, Any], payload: bytes) -> Path:
    """A file whose header says anything."""
    header = json.dumps(tensors).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + payload)
    return path


# --- arrays of NumPy ------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(dtype=st.sampled_from(DTYPES), shape=SHAPES, is_fortran=st.booleans(), packed=st.booleans())
def test_an_array_comes_as_its_values_alone_or_in_an_npz(
    tmp_path: Path, dtype: str, shape: tuple[int, ...], is_fortran: bool, packed: bool
) -> None:
    array = values(dtype, shape, is_fortran=is_fortran)
    np.save(tmp_path / "a.npy", array)
    arrays: dict[str, Any] = {"inner/name": array, "b": array}
    (np.savez_compressed if packed else np.savez)(tmp_path / "a.npz", **arrays)
    little = array.astype(array.dtype.newbyteorder("<")).tobytes()
    [alone], [first, second] = good(tmp_path / "a.npy"), good(tmp_path / "a.npz")
    assert (alone.name, first.name, second.name) == ("", "inner/name", "b")
    for tensor in (alone, first, second):
        assert (tensor.kind.shape(tensor.num_rows), read_tensor(tensor)) == (shape, little)
    assert getattr(torch, alone.kind.dtype) == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_versions_of_the_header_are_read(tmp_path: Path, version: tuple[int, int]) -> None:
    array = values("<f4", (2, 3))
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version=version)
    [tensor] = good(tmp_path / "a.npy")
    assert read_tensor(tensor) == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "<f4"), ("b", "<i4")]),
        np.zeros(2, dtype="<f2").view("V2"),
        np.zeros(2, dtype="<M8[s]"),
        np.zeros(2, dtype="<c16"),
        np.zeros((2, 0), dtype="<f4"),
    ],
    ids=["text", "object", "structure", "bytes", "times", "complex128", "nothing"],
)
def test_what_is_no_array_of_numbers_is_refused_and_never_unpickled(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=r"is no array of plain numbers|cannot be kept"):
        good(tmp_path / "a.npy")


@pytest.mark.parametrize(("code", "name"), [("c16", "complex128"), ("f16", "float128"), ("U1", "U1 of NumPy")])
def test_a_dtype_is_called_by_its_bits_as_everywhere(tmp_path: Path, code: str, name: str) -> None:
    header = f"{{'descr': '<{code}', 'fortran_order': False, 'shape': (2,), }}".ljust(117) + "\n"
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(32)
    )
    with pytest.raises(ValueError, match=f"its dtype is {name}, which cannot be kept"):
        good(tmp_path / "a.npy")


def npy_of(shape: str, payload: bytes = b"", header_bytes: int | None = None) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", header_bytes or len(text)) + text + payload


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x93NUMPY", npy_of("(2, 3)", bytes(23)), npy_of("(2, 3)", bytes(25))),
        *(
            npy_of("(99999999999, 99999999999)"),
            npy_of("(1000000000,)"),
            npy_of("(-1, 2)"),
            npy_of("(2, 3)", b"", 60000),
        ),
        npy_of("(__import__('os').system('true'),)"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"truncated|no array|cannot be kept|more than"):
        good(tmp_path / "a.npy")


def test_a_bad_member_of_an_npz_costs_that_member(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("bomb.npy", npy_of("(1000000000,)"))
        archive.writestr("readme.txt", "no array")
        file = io.BytesIO()
        np.save(file, values("<f4", (2, 3)))
        archive.writestr("good.npy", file.getvalue())
    assert [tensor.name for tensor in good(tmp_path / "a.npz")] == ["good"]
    assert len(bad(tmp_path / "a.npz")) == 1


def test_a_flipped_bit_in_an_npz_is_found(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=values("<f4", (50, 3)))
    [tensor] = good(tmp_path / "a.npz")
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[400] ^= 1
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(ValueError, match="do not fit the checksum"):
        read_tensor(tensor)


# --- safetensors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", BYTES_PER_VALUE)
def test_every_dtype_of_safetensors_comes_to_the_byte(tmp_path: Path, dtype: str) -> None:
    data = torch.arange(24, dtype=torch.uint8).remainder(2)
    tensor = data.view(getattr(torch, dtype))
    save_file(
        {"rows": tensor.view(1, -1), "b": torch.zeros(3), "number": tensor[0].clone()}, tmp_path / "a.safetensors"
    )
    found = {one.name: one for one in good(tmp_path / "a.safetensors")}
    assert found["rows"].kind == TensorKind.of(dtype, (1, len(tensor)))
    assert found["number"].kind == TensorKind(dtype, None)
    assert read_tensor(found["rows"]) == data.numpy().tobytes()


def entry(start: int, stop: int, shape: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])},
        {"a": entry(0, 4, [1]), "b": entry(8, 12, [1])},
        {"a": entry(0, 16, [4])},
        {"a": entry(0, 8, [2])},
        {"a": entry(8, 0, [2])},
        {"a": {"dtype": "F32"}},
        {"a": 5},
        [],
        {"a": entry(-4, 12, [4])},
    ],
)
def test_a_safetensors_file_whose_header_is_wrong_is_refused(tmp_path: Path, tensors: Any) -> None:
    write_safetensors(tmp_path / "a.safetensors", tensors, bytes(12))
    with pytest.raises(ValueError, match=r"overlap|describes|damaged"):
        good(tmp_path / "a.safetensors")


def test_a_tensor_that_cannot_be_kept_costs_that_tensor(tmp_path: Path) -> None:
    tensors = {
        "four": entry(0, 4, [8], "F4"),
        "good": entry(4, 8, [1]),
        "lies": entry(8, 12, [2]),
        "huge": entry(12, 12, [2**40, 0]),
        "odd": entry(12, 16, ["x"]),
        "dtype": entry(16, 20, [1], ["F32"]),
    }
    path = write_safetensors(tmp_path / "a.safetensors", {"__metadata__": {"x": "y"}, **tensors}, bytes(20))
    assert [tensor.name for tensor in good(path)] == ["good"]
    assert len(bad(path)) == 5


@pytest.mark.parametrize("header_bytes", [0, 1 << 20, 1 << 60, (1 << 64) - 1])
def test_the_length_of_a_header_is_not_believed(tmp_path: Path, header_bytes: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(header_bytes.to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"no safetensors file"):
        good(tmp_path / "a.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), suffix=st.sampled_from(["npy", "npz", "safetensors"]))
def test_damage_anywhere_is_an_error_of_the_file_or_leaves_a_tensor_of_its_size(
    tmp_path: Path, data: st.DataObject, suffix: str
) -> None:
    array = values("<f4", (2, 3))
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    elif suffix == "npz":
        np.savez(path, a=array, b=array)
    else:
        save_file({"a": torch.from_numpy(array), "b": torch.zeros(2)}, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))])
    try:
        for tensor in good(path):
            assert len(read_tensor(tensor)) == tensor.num_bytes
    except (OSError, ValueError):
        return
