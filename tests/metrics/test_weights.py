"""Files of weights that are no such files: one line each, that says what to do."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from semdis_cli.errors import CheckpointError
from semdis_cli.metrics import lpips
from semdis_cli.metrics.weights import Network, read_weights

SMALL = {
    "one": Network("one", {"a": (2, 3), "b": (4,)}, "; make it with: make one", ignored="c.*"),
    "two": Network("two", {"a": (5, 3), "b": (4,)}, "; make it with: make two"),
}


def tensors(rows: int = 2) -> dict[str, Tensor]:
    return {"a": torch.ones(rows, 3), "b": torch.zeros(4)}


def written(path: Path, found: dict[str, Tensor]) -> Path:
    path.write_bytes(save(found))
    return path


def refusal(path: Path) -> str:
    """The one line that is said of a file."""
    with pytest.raises(CheckpointError) as caught:
        read_weights(path, SMALL)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(("rows", "name"), [(2, "one"), (5, "two")])
def test_shapes_tell_which_network_it_is(tmp_path: Path, rows: int, name: str) -> None:
    path = written(tmp_path / "w.safetensors", tensors(rows))
    found, weights = read_weights(path, SMALL)
    assert found == name
    assert weights.tensors["a"].shape == (rows, 3)
    assert weights.to_json() == {"file": "w.safetensors", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_what_is_ignored_may_be_there_and_is_left(tmp_path: Path) -> None:
    _, weights = read_weights(written(tmp_path / "w", tensors() | {"c1": torch.zeros(9, dtype=torch.int64)}), SMALL)
    assert sorted(weights.tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"b": None}, "b is missing"),
        ({"b": torch.zeros(5)}, "b is [5], not [4]"),
        ({"b": torch.zeros(4, dtype=torch.float16)}, "b is float16, not float32"),
        ({"b": torch.tensor([0, 1, torch.nan, 0])}, "b holds NaN or infinity"),
        ({"b": torch.tensor([0, 1, -torch.inf, 0])}, "b holds NaN or infinity"),
        ({"d": torch.zeros(1)}, "d does not belong there"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, change: dict[str, Tensor | None], reason: str) -> None:
    found = {name: tensor for name, tensor in (tensors() | change).items() if tensor is not None}
    text = refusal(written(tmp_path / "w.safetensors", found))
    assert text == f"these are not the weights of one: {reason}; make it with: make one"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == "cannot be read (No such file or directory); make it with: make one"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read (not a regular file)"


@pytest.mark.parametrize("content", [b"", b"{}", b"hello, world, these are no tensors at all", b"\xff" * 64])
def test_something_else_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    assert refusal(tmp_path / "w").startswith("not a whole safetensors file (")


def test_a_file_that_was_cut_off_is_noticed(tmp_path: Path) -> None:
    whole = save(tensors())
    (tmp_path / "w").write_bytes(whole[:-1])
    assert refusal(tmp_path / "w").startswith("not a whole safetensors file (")


def test_a_pointer_of_git_is_named(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "git lfs pull" in refusal(tmp_path / "w")


@pytest.mark.parametrize(
    "start", [b"PK\x03\x04\0\0\x08\x08\0\0", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x04\x95\n\0\0"]
)
def test_pickles_are_named_and_not_read(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(start + bytes(100))
    text = refusal(tmp_path / "w.pth")
    assert text.startswith("a PyTorch checkpoint, a pickle, which can run code when it is read, so it is not")
    assert text.endswith("; make it with: make one")


def test_a_length_that_looks_like_a_pickle_is_a_length(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
        }
    ).ljust(0x280)
    data = len(header).to_bytes(8, "little") + header.encode() + bytes(40)
    assert data.startswith(b"\x80\x02")
    (tmp_path / "w").write_bytes(data)
    assert read_weights(tmp_path / "w", SMALL)[0] == "one"


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "w").open("wb") as stream:
        stream.truncate(1 << 40)  # a terabyte of holes
    assert refusal(tmp_path / "w").startswith("larger than the weights that are needed here")


@given(data=st.binary(max_size=300), at=st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_damaged_files_are_refused_or_whole(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    whole = save(tensors())
    path.write_bytes(whole[:at] + data + whole[at + len(data) :])
    with suppress(CheckpointError):
        name, weights = read_weights(path, SMALL)
        assert {name: tuple(one.shape) for name, one in weights.tensors.items()} == SMALL[name].shapes


def test_the_part_of_lpips_that_its_package_carries_is_not_all_of_it(tmp_path: Path) -> None:
    part = {
        f"lin{number}.model.1.weight": torch.zeros(1, size, 1, 1)
        for number, size in enumerate([64, 192, 384, 256, 256])
    }
    path = written(tmp_path / "alex.safetensors", part)
    with pytest.raises(
        CheckpointError,
        match=r"weights of LPIPS \(alex\): scaling_layer.shift is missing; where .*LPIPS\(net=\"alex\"\)",
    ):
        lpips.Lpips.load(path, torch.device("cpu"))
