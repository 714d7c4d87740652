"""torch's compiler: modules that are compiled, and what becomes of them where that fails."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_AS_PRODUCTS = "conv_1x1_as_mm"  # of rows, with what surrounds them in their epilogue
_TRIAL_VALUES = 64
_MOST_COMPILED = 1024  # blocks of an encoder and of a decoder, for every size and number of threads


def compiler_trouble(device: torch.device) -> str | None:
    """Say in one line why nothing can be compiled for `device`; None if a function of one line can."""
    trial = torch.compile(_trial, dynamic=False)
    try:
        trial(torch.ones(_TRIAL_VALUES, device=device))
    except compiler_errors() as error:
        return first_line(error)
    return None


def compile_modules(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Let each module on `device` be compiled when it is first called, once for every size."""
    options: dict[str, Any] = {}
    if device.type == "cuda" and _AS_PRODUCTS in torch._inductor.list_options():  # noqa: SLF001 (its only name)
        options = {"options": {_AS_PRODUCTS: True}}
    for module in modules:
        module.compile(dynamic=False, **options)


def uncompile_modules(modules: Iterable[nn.Module]) -> None:
    """Let each module be what it was before `compile_modules`."""
    for module in modules:
        module._compiled_call_impl = None  # noqa: SLF001 (what `Module.compile` sets; there is no way back but this)


def allow_many_sizes() -> None:
    """Let the calling thread compile for more than torch's eight sizes; the limits are each thread's own since 2.12.

    Where they are reached, torch would go on with uncompiled modules and other last bits: it is to fail instead.
    """
    limits = torch._dynamo.config  # noqa: SLF001 (there is no other name for it)
    names = ("recompile_limit", "accumulated_recompile_limit", "cache_size_limit", "accumulated_cache_size_limit")
    for name in names[:2] if hasattr(limits, names[0]) else names[2:]:  # the latter up to torch 2.6
        setattr(limits, name, _MOST_COMPILED)
    if hasattr(limits, "fail_on_recompile_limit_hit"):
        limits.fail_on_recompile_limit_hit = True


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return the errors that torch's compiler raises: it has many, most of them a `RuntimeError`."""
    return RuntimeError, getattr(torch._dynamo.exc, "FailOnRecompileLimitHit", RuntimeError)  # noqa: SLF001


def first_line(error: Exception) -> str:
    """Return what `error` says, in one line of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]:.200}" if lines else type(error).__name__


def _trial(x: Tensor) -> Tensor:
    return x.sin().sum()
