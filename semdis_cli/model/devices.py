"""Devices and dtypes of a model: names from the command line -> those that torch has here."""

import os
import warnings
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from semdis_cli.errors import UsageError
from semdis_cli.settings import DtypeName
from semdis_cli.tensors import is_out_of_memory

M = TypeVar("M", bound=nn.Module)
_NVIDIA_SIGNS = ("dev/nvidia[0-9]*", "proc/driver/nvidia/version")
_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
_IMAGES_WORTH_COMPILING = 50_000
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def find_device(name: str | int | torch.device) -> torch.device:
    """The device called `name` (a number is that of a CUDA device); "auto" is CUDA if present.

    Raises `UsageError` if there is none of that name, for types of device that no model runs on, and for a device that
    this build of torch has no kernels for.
    """
    if name == "auto":
        name = "cuda" if _cuda_is_available() else "cpu"
    name = f"cuda:{name}" if isinstance(name, int) else str(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _DEVICE_TYPES:
        raise UsageError(f"--device {name:.40}: must be auto, or one of {', '.join(_DEVICE_TYPES)}, cuda:1, ...")
    if (reason := _why_not(device)) is not None:
        raise UsageError(f"--device {name:.40}: not available here ({reason})")
    return device


def unused_gpu(root: Path = Path("/")) -> str | None:
    """Say why "auto" takes the CPU though there is an NVIDIA GPU; None if it takes the GPU, or there is none to take.

    `root`: the folder in which `dev` and `proc` lie. A GPU that is hidden (`CUDA_VISIBLE_DEVICES`) is none.
    """
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
    if is_hidden or torch.version.cuda is None or not any(any(root.glob(sign)) for sign in _NVIDIA_SIGNS):
        return None
    if _cuda_is_available() or (reason := _why_not(torch.device("cuda"))) is None:
        return None
    return (
        f"there is an NVIDIA GPU, but --device auto takes the CPU: CUDA {torch.version.cuda}, for which this PyTorch "
        f"was built, fails here ({reason}); install a newer driver, or PyTorch for an older CUDA (README, Install)"
    )


def move_model(model: M, device: torch.device | None, dtype: torch.dtype | None) -> M:
    """Move `model` to `device` and `dtype`; None leaves either as it is. Raises `UsageError` without memory for it."""
    try:
        return model.to(device=device, dtype=dtype)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError(f"--device {device}: no memory for the model; is it taken by another program?") from error


def count_gpus() -> int:
    """Return how many CUDA devices there are."""
    return torch.cuda.device_count() if _cuda_is_available() else 0


def _cuda_is_available() -> bool:
    with warnings.catch_warnings():  # what torch has to say of the driver is said with the device, in one line
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def _why_not(device: torch.device) -> str | None:
    """Say why nothing can be computed on `device`; None if it can: a kernel runs there, as memory proves nothing."""
    try:
        torch.zeros(1, device=device).add_(1).item()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    text = str(error)
    if "no kernel image" in text:
        return "this build of PyTorch has no kernels for so old or so new a GPU; see README, Install"
    if text.startswith("Could not run"):
        return "this build of PyTorch knows none"
    return f"{text.partition(chr(10))[0].partition('. ')[0]:.200}"


def check_dtype(dtype: object) -> None:
    """Raise `ValueError` unless `dtype` is None or torch's of floating point."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be one of floating point, as torch.bfloat16, not {dtype!r:.40}")


def pays_to_compile(device: torch.device, num_images: int) -> bool:
    """Tell whether compiling is worth its wait for so many images: on a GPU from tens of thousands on.

    Nobody has measured it there yet; a minute's wait and a quarter less time are assumed. On a CPU packed weights are
    as fast.
    """
    return device.type == "cuda" and num_images >= _IMAGES_WORTH_COMPILING


def calls_at_once(device: torch.device) -> int:
    """Threads that make model calls on an accelerator: with two, one call is copied while the other computes.

    Metal ends the process if two threads use it.
    """
    return 2 if device.type == "cuda" else 1


def find_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The dtype called `name`; "auto" is bfloat16 where `device` multiplies it fast, else float32.

    Raises `UsageError` for another name.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise UsageError(f"--dtype {name!s:.40}: must be auto, or one of {', '.join(_DTYPES)}")
        return _DTYPES[name]
    if device.type == "cuda":
        with torch.cuda.device(device):
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and _cpu_multiplies_bfloat16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Tell whether the CPU has bfloat16 dot products (AVX-512 BF16 or AMX); else bfloat16 is slower than float32."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as cpuinfo:
            flags = next((line for line in cpuinfo if line.startswith(("flags", "Features"))), "")
    except OSError:  # not Linux
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())
