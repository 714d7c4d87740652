"""Devices: what is not there or cannot compute is said in one line, before anything is read."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from semdis_cli.errors import UsageError
from semdis_cli.model import devices
from semdis_cli.model.devices import find_device, move_model, unused_gpu

without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an NVIDIA GPU and a PyTorch for CUDA, which does not work: here is no such driver."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@without_cuda
def test_a_gpu_that_auto_cannot_take_is_spoken_of(machine: Path) -> None:
    note = unused_gpu(machine)
    assert note is not None
    assert note.startswith("there is an NVIDIA GPU, but --device auto takes the CPU: CUDA 13.0")
    assert "install a newer driver" in note
    assert "\n" not in note


@without_cuda
def test_a_driver_without_a_device_node_counts(machine: Path) -> None:
    (machine / "dev" / "nvidia0").unlink()
    assert unused_gpu(machine) is None
    (machine / "proc" / "driver" / "nvidia").mkdir(parents=True)
    (machine / "proc" / "driver" / "nvidia" / "version").touch()
    assert unused_gpu(machine) is not None


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_none(machine: Path, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert unused_gpu(machine) is None


def test_a_pytorch_that_knows_no_cuda_has_nothing_to_say(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert unused_gpu(machine) is None


@without_cuda
def test_a_cuda_device_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^--device cuda:1: not available here \(.+\)$"):
        find_device(1)


@pytest.mark.gpu
def test_a_cuda_device_is_found() -> None:
    assert find_device("auto").type == "cuda"
    assert unused_gpu() is None


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        (
            "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be ...",
            "this build of PyTorch has no kernels for so old or so new a GPU; see README, Install",
        ),
        ("Could not run 'aten::zeros' with arguments from the 'XPU' backend.", "this build of PyTorch knows none"),
        (
            "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by ...",
            "The NVIDIA driver on your system is too old (found version 12020)",
        ),
        ("Torch not compiled with CUDA enabled", "Torch not compiled with CUDA enabled"),
    ],
)
def test_what_torch_says_is_one_clear_line(said: str, understood: str) -> None:
    assert devices._reason(RuntimeError(said)) == understood


def test_a_model_too_large_for_the_device_is_refused() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(1).expand(sys.maxsize // 16))
    with pytest.raises(UsageError, match="--device cpu: no memory for the model"):
        move_model(model, torch.device("cpu"), torch.float64)


def test_another_error_of_moving_a_model_stays_what_it_is() -> None:
    with pytest.raises(NotImplementedError):
        move_model(nn.Linear(1, 1, device="meta"), torch.device("cpu"), None)
