"""Devices and dtypes of a model: names from the command line -> those that torch has here."""

from pathlib import Path

import torch

from semdis_cli.errors import UsageError
from semdis_cli.settings import DtypeName

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
_IMAGES_WORTH_COMPILING = 50_000
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def find_device(name: str | int | torch.device) -> torch.device:
    """The device called `name` (a number is that of a CUDA device); "auto" is CUDA if present.

    Raises `UsageError` if there is none of that name, and for types of device that no model runs on.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"cuda:{name}" if isinstance(name, int) else str(name)
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _DEVICE_TYPES:
        raise UsageError(f"--device {name:.40}: must be auto, or one of {', '.join(_DEVICE_TYPES)}, cuda:1, ...")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        reason = str(error).splitlines()[0].partition(". ")[0]
        if reason.startswith("Could not run"):
            reason = "this build of PyTorch knows none"
        raise UsageError(f"--device {name:.40}: not available here ({reason:.200})") from error
    return device


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
